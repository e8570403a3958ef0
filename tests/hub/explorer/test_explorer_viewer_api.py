"""The dataset viewer's API on our rows: the official shapes, the official refusals, and no 500 whatever is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import httpx
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from purified_folder import TEACHERS, report, write_purified

from kp_data.hub.explorer.features import feature_of
from kp_data.hub.explorer.serve import folder_served
from kp_data.schema import PURIFIED, RESPONSES
from kp_data.tables import write_json

WHOLE = {"dataset": "local/pure", "config": "purified", "split": "all"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = write_purified(tmp_path_factory.mktemp("viewer") / "pure", 250)
    write_json({**report(250), "teachers": list(TEACHERS)}, folder / "report.json")
    with folder_served(folder, folder.parent / "indexes") as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def asked(client: httpx.Client, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(path, params={**WHOLE, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_splits_are_listed_by_config(client: httpx.Client) -> None:
    found = client.get("/splits", params={"dataset": "local/pure"}).json()
    assert found == {
        "splits": [
            {"dataset": "local/pure", "config": "purified", "split": "all"},
            {"dataset": "local/pure", "config": "panel", "split": "all"},
        ],
        "pending": [],
        "failed": [],
    }


def test_rows_come_with_features_numbers_and_totals(client: httpx.Client) -> None:
    found = asked(client, "/rows", offset=248, length=5)
    assert [row["row_idx"] for row in found["rows"]] == [248, 249]
    assert found["rows"][0]["row"]["id"] == "q248"
    assert found["rows"][0]["truncated_cells"] == []
    assert found["features"][0] == {"feature_idx": 0, "name": "id", "type": {"dtype": "string", "_type": "Value"}}
    assert (found["num_rows_total"], found["num_rows_per_page"], found["partial"]) == (250, 100, False)


def test_a_page_has_a_hundred_rows_unless_fewer_are_asked_for(client: httpx.Client) -> None:
    assert len(asked(client, "/rows")["rows"]) == 100
    assert len(asked(client, "/rows", length=0)["rows"]) == 0


def test_first_rows_say_that_there_are_more(client: httpx.Client) -> None:
    found = asked(client, "/first-rows")
    assert (len(found["rows"]), found["truncated"], found["split"]) == (100, True, "all")


def test_a_filter_is_answered_in_its_order(client: httpx.Client) -> None:
    found = asked(client, "/filter", where="\"answer\" = 'fall' AND split <> 'train'", orderby="id DESC", length=2)
    assert [row["row"]["id"] for row in found["rows"]] == ["q247", "q244"]
    assert found["num_rows_total"] == sum(1 for row in range(250) if row % 3 == 1 and row % 5 > 1)


def test_search_says_that_it_is_not_ready_and_then_finds(client: httpx.Client) -> None:
    import time

    for _ in range(400):
        answer = client.get("/search", params={**WHOLE, "query": "item 17"})
        if answer.status_code == 200:
            break
        assert answer.status_code == 503
        assert answer.headers["X-Error-Code"] == "ResponseNotReadyError"
        assert answer.headers["Retry-After"]
        time.sleep(0.05)
    found = answer.json()
    assert [row["row"]["id"] for row in found["rows"]] == ["q017"]
    assert found["num_rows_total"] == 1


def test_statistics_describe_every_column(client: httpx.Client) -> None:
    found = asked(client, "/statistics")
    assert found["num_examples"] == 250
    of = {column["column_name"]: column for column in found["statistics"]}
    assert of["answer_index"]["column_type"] == "int"
    assert of["answer_index"]["column_statistics"] == {
        "nan_count": 0,
        "nan_proportion": 0.0,
        "min": 0,
        "max": 2,
        "mean": 0.996,
        "median": 1.0,
        "std": pytest.approx(0.81894, abs=1e-5),
        "histogram": {"hist": [84, 83, 83], "bin_edges": [0, 1, 2, 2]},
    }
    assert of["split"]["column_statistics"]["frequencies"] == {"train": 100, "ood": 50, "test": 50, "validation": 50}
    assert of["id"]["column_type"] == "string_text"
    assert sum(of["id"]["column_statistics"]["histogram"]["hist"]) == 250
    assert of["conflict"]["column_statistics"]["frequencies"] == {"True": 250}
    assert of["scores"]["column_type"] == "list"
    assert of["context"]["column_statistics"]["nan_count"] == 250


def test_sizes_add_up(client: httpx.Client) -> None:
    found = client.get("/size", params={"dataset": "local/pure"}).json()["size"]
    assert found["dataset"]["num_rows"] == 250 + 750 == sum(config["num_rows"] for config in found["configs"])
    assert [split["num_columns"] for split in found["splits"]] == [len(PURIFIED), len(RESPONSES)]


def test_parquet_files_can_be_fetched_where_it_says(client: httpx.Client) -> None:
    (file,) = client.get("/parquet", params={"dataset": "local/pure", "config": "purified"}).json()["parquet_files"]
    assert file["filename"] == "purified.parquet"
    answer = client.get(file["url"])
    assert answer.status_code == 200
    assert (answer.content[:4], len(answer.content)) == (b"PAR1", file["size"])


def test_every_answer_names_the_revision(client: httpx.Client) -> None:
    revision = client.get("/is-valid", params={"dataset": "local/pure"}).headers["X-Revision"]
    assert len(revision) == 40
    assert asked(client, "/rows", revision=revision)["num_rows_total"] == 250


def test_the_same_is_to_be_had_below_viewer(client: httpx.Client) -> None:
    assert asked(client, "/viewer/rows") == asked(client, "/rows")


@pytest.mark.parametrize(
    ("path", "query", "status", "says"),
    [
        ("/rows", {"dataset": "no/such"}, 404, "no such dataset"),
        ("/rows", {"dataset": ""}, 422, "Parameter 'dataset' is required"),
        ("/rows", {"config": "other"}, 404, "no split"),
        ("/rows", {"offset": "-1"}, 422, "Parameter 'offset'"),
        ("/rows", {"length": "101"}, 422, "Parameter 'length'"),
        ("/rows", {"offset": "٣"}, 422, "Parameter 'offset'"),
        ("/filter", {"where": "1; DROP TABLE x"}, 422, "holds more than a condition"),
        ("/filter", {"where": "mood = 1"}, 422, "no column 'mood'"),
        ("/filter", {"orderby": "choices"}, 422, "cannot be sorted"),
        ("/search", {"query": " "}, 422, "Parameter 'query' is required"),
        ("/statistics", {"split": "nothing"}, 404, "no split"),
        ("/rows", {"revision": "v9.9.9"}, 404, "no such dataset"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    client: httpx.Client, path: str, query: dict[str, str], status: int, says: str
) -> None:
    answer = client.get(path, params={**WHOLE, **query})
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert answer.headers["X-Error-Code"]


TEXT = st.text(max_size=30) | st.sampled_from(
    ["0", "-1", "1e3", "99999999999999", "id", "id DESC", "score > 0", "\x00", "%"]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(
        ["/rows", "/filter", "/first-rows", "/statistics", "/size", "/parquet", "/info", "/croissant"]
    ),
    query=st.dictionaries(
        st.sampled_from(["dataset", "config", "split", "offset", "length", "where", "orderby", "query", "revision"]),
        TEXT,
    ),
)
def test_no_parameter_whatever_breaks_the_server(client: httpx.Client, path: str, query: dict[str, str]) -> None:
    answer = client.get(path, params={**WHOLE, **query})
    assert answer.status_code in (200, 404, 422), answer.text


def test_features_are_written_as_datasets_writes_them() -> None:
    schema = pa.schema(
        [
            *RESPONSES,
            *PURIFIED.remove(0),
            pa.field("f", pa.list_(pa.float32(), 3)),
            pa.field("s", pa.struct([("a", pa.int8())])),
        ]
    )
    names = list(dict.fromkeys(schema.names))
    schema = pa.schema([schema.field(schema.get_all_field_indices(name)[0]) for name in names])
    ours = {field.name: feature_of(field.type) for field in schema}
    assert ours == datasets.Features.from_arrow_schema(schema).to_dict()


def test_another_sites_name_for_this_address_is_refused(client: httpx.Client) -> None:
    answer = client.get("/splits", params={"dataset": "local/pure"}, headers={"Host": "evil.example:8000"})
    assert answer.status_code == 421
