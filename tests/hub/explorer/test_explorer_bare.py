"""What people publish that is no dataset of ours, and addresses that nobody's link has: pages, and no failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from purified_folder import write_purified

from kp_data.hub.explorer.serve import folder_served
from kp_data.hub.server import HubSettings, issue_token, running

BARE = ("ada/empty", "ada/notes", "ada/broken", "ada/no-ids")
PAGES = ("", "/versions", "/compare/main...main", "/rows/data/train", "/statistics/data/train", "/questions/q1")
CALLS = ("is-valid", "splits", "size", "info", "parquet", "croissant", "first-rows", "rows", "statistics", "search")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A hub where somebody published nothing, a CSV file, a broken table, and rows without ids."""
    folder = tmp_path_factory.mktemp("bare")
    pq.write_table(pa.table({"said": ["a", "b"]}), folder / "rows.parquet")
    files = {
        "ada/notes": {"README.md": b"# Notes\n[table](data.csv)", "data.csv": b"a,b\n1,2\n"},
        "ada/broken": {"data/train.parquet": b"PAR1 this is none PAR1"},
        "ada/no-ids": {"data/train.parquet": (folder / "rows.parquet").read_bytes()},
    }
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        api = HfApi(endpoint=url, token=issue_token(hub, "ada", write=True)[0])
        for name in BARE:
            api.create_repo(name, repo_type="dataset")
        for name, held in files.items():
            for path, data in held.items():
                api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=name, repo_type="dataset")
        with httpx.Client(base_url=url, timeout=60, headers={"Accept": "text/html"}) as client:
            yield client


@pytest.mark.parametrize("name", BARE)
def test_no_page_fails_whatever_was_published(client: httpx.Client, name: str) -> None:
    for page in PAGES:
        answer = client.get(f"/datasets/{name}{page}")
        assert answer.status_code in (200, 404, 422), (page, answer.text[-500:])
        assert "<h1>" in answer.text, page


@pytest.mark.parametrize("name", BARE)
def test_no_call_fails_whatever_was_published(client: httpx.Client, name: str) -> None:
    for call in CALLS:
        for config in ({}, {"config": ""}, {"config": "data", "split": "train"}):
            answer = client.get(f"/{call}", params={"dataset": name, "query": "a", **config})
            assert answer.status_code in (200, 404, 422, 503), (call, config, answer.text)
            assert isinstance(answer.json(), dict)


def test_a_dataset_without_tables_says_so_and_gives_its_files(client: httpx.Client) -> None:
    page = client.get("/datasets/ada/notes").text
    assert "Notes" in page
    assert "data.csv" in page
    link = next(piece for piece in page.split('"') if "/download/" in piece and piece.endswith("data.csv"))
    assert client.get(link).content == b"a,b\n1,2\n"
    assert "Nor has it tables" in client.get("/datasets/ada/empty").text


def test_rows_without_ids_are_shown_and_not_compared(client: httpx.Client) -> None:
    assert "2 rows" in client.get("/datasets/ada/no-ids/rows/data/train").text
    compared = client.get("/datasets/ada/no-ids/compare/main...main")
    assert (compared.status_code, "have no id" in compared.text) == (200, True)


def test_a_list_is_shown_a_page_at_a_time(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from kp_data.hub.explorer import first_page

    monkeypatch.setattr(first_page, "LISTED", 3)
    first, second = (client.get("/", params={"page": number}).text for number in (1, 2))
    shown = [[name for name in BARE if f'href="/datasets/{name}"' in page] for page in (first, second)]
    assert [len(names) for names in shown] == [3, 1]
    assert sorted(shown[0] + shown[1]) == sorted(BARE)
    assert "4 datasets</h2>" in first
    assert "page 1 of 2<" in first
    assert "There are only 2 pages" in client.get("/", params={"page": 9}).text


def test_what_a_form_comes_back_to_keeps_the_question(client: httpx.Client) -> None:
    page = client.get("/", params={"search": "no & such"}).text
    assert 'name="back" value="/?search=no+%26+such"' in page
    assert client.get("/", params={"search": "x" * 5_000}).text.count("x" * 3_000) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A folder's explorer whose index of words is built."""
    made = write_purified(tmp_path_factory.mktemp("far") / "pure", 40)
    with folder_served(made, made.parent / "indexes") as url, httpx.Client(base_url=url, timeout=30) as client:
        while "http-equiv" in client.get(ROWS, params={"search": "item"}).text:
            time.sleep(0.1)
        yield client


ROWS = "/datasets/local/pure/rows/purified/all"
NUMBERS = ["0", "-1", "999999999", "1" * 5_000, "0000000001" + "9" * 5_000, "٣", "1e9", ""]


@pytest.mark.parametrize("page", NUMBERS)
def test_no_number_of_a_page_breaks_the_server(folder: httpx.Client, page: str) -> None:
    addresses = ("/", ROWS, "/datasets/local/pure/compare/main...main")
    for address, query in [*((each, {}) for each in addresses), (ROWS, {"search": "item"})]:
        assert folder.get(address, params={**query, "page": page}, follow_redirects=True).status_code == 200, address


def test_what_a_form_leaves_empty_is_not_in_the_address(folder: httpx.Client) -> None:
    sent = {"search": "", "is.split": "test", "where": "conflict", "orderby": "", "show": ["id", "score"], "page": "2"}
    answer = folder.get(ROWS, params=sent)
    assert (answer.status_code, answer.headers["cache-control"]) == (303, "private, no-store")
    assert answer.headers["location"] == f"{ROWS}?is.split=test&where=conflict&show=id&show=score&page=2"
    assert folder.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize("offset", [40, 10**9, 2**40])
def test_a_search_far_beyond_its_hits_finds_nothing(folder: httpx.Client, offset: int) -> None:
    part = {"dataset": "local/pure", "config": "purified", "split": "all"}
    answer = folder.get("/search", params={**part, "query": "item", "offset": offset, "length": 100})
    assert (answer.status_code, answer.json()["rows"], answer.json()["num_rows_total"]) == (200, [], 40)


WORDS = st.text(max_size=20) | st.sampled_from(
    [*NUMBERS, "id", "score DESC", "score > 0", '"', "%00", "\x00", "(none)"]
)
NAMES = [
    "where",
    "orderby",
    "search",
    "page",
    "show",
    "revision",
    "is.teacher",
    "is.nothing",
    "is.score",
    "config",
    "kind",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    address=st.sampled_from(["/", ROWS, "/datasets/local/pure", "/datasets/local/pure/compare/main...main"]),
    query=st.dictionaries(st.sampled_from(NAMES), WORDS, max_size=4),
)
def test_no_parameter_whatever_breaks_a_page(folder: httpx.Client, address: str, query: dict[str, str]) -> None:
    assert folder.get(address, params=query, follow_redirects=True).status_code in (200, 404, 422)


def test_a_page_of_a_folder_is_short(folder: httpx.Client, tmp_path: Path) -> None:
    assert len(folder.get("/").content) + len(folder.get(ROWS).content) < 100_000
