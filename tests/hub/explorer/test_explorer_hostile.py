"""Stored texts that try to run: in every column, in the card, in names; on every page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote

import httpx
import pyarrow as pa
import pytest
from hostile import PAYLOADS, faults_of

from kp_data.hub.explorer.render import POLICY
from kp_data.hub.server import Hub, HubSettings, issue_token, running
from kp_data.schema import PURIFIED, RESPONSES
from kp_data.tables import write_json, write_parquet

NUM = len(PAYLOADS)


def write_hostile(folder: Path, *, edited: bool = False) -> Path:
    """A purified folder whose every text is a payload; the other version of it has other rationales."""
    turned = PAYLOADS[1:] + PAYLOADS[:1]
    rows = [
        {
            "id": f"{number:03d} {payload}",
            "question": payload,
            "choices": [payload, "b"],
            "answer": payload,
            "answer_index": 0,
            "split": "train",
            "subject": PAYLOADS[number % 7],
            "context": payload,
            "rationale": f"{payload} {turned[number]}" if edited else payload,
            "teacher": PAYLOADS[number % 3],
            "method": "best-single",
            "score": 0.5,
            "scores": [0.5, 0.25],
            "purified_answer_index": 0,
            "conflict": True,
        }
        for number, payload in enumerate(PAYLOADS)
    ]
    responses = [
        {
            "question_id": row["id"],
            "teacher": teacher,
            "mode": "blind",
            "sample": 0,
            "rationale": row["rationale"] if place == 0 else None,
            "answer": row["answer"],
            "answer_index": place,
            "correct": place == 0,
            "error": None if place == 0 else "timeout",
            "model": row["question"],
        }
        for row in rows
        for place, teacher in enumerate((row["teacher"], "other"))
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=PURIFIED), folder / "purified" / "train-00000-of-00001.parquet")
    write_parquet(pa.Table.from_pylist(responses, schema=RESPONSES), folder / "panel" / "train-00000-of-00001.parquet")
    fit = {"score_meaning": PAYLOADS[0]}
    write_json({"method": PAYLOADS[12], "teachers": list(PAYLOADS[:2]), "fit": fit}, folder / "report.json")
    (folder / "CHANGELOG.md").write_text("# Changes\n\n" + "\n\n".join(PAYLOADS), encoding="utf-8")
    return folder


def card(payload: str) -> str:
    """A README with a payload in its metadata, and all of them in its text."""
    quoted = json.dumps(payload)
    return (
        f"---\nlicense: {quoted}\npretty_name: {quoted}\ntags: [{quoted}]\n"
        f"kp_data:\n  method: {quoted}\n---\n" + "\n\n".join(PAYLOADS).replace("\x00", "")
    )


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str, str]]:
    """A hub with `ada/bad` in two versions."""
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = tmp_path_factory.mktemp("hostile")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        token, _ = issue_token(hub, "ada", write=True)
        api = HfApi(url, token=token)
        api.create_repo("ada/bad", repo_type="dataset")
        for number, edited in enumerate((False, True)):
            made = write_hostile(folder / f"v{number}", edited=edited)
            files = {
                str(path.relative_to(made)): path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()
            }
            files["README.md"] = card(PAYLOADS[number]).encode("utf-8", "surrogatepass")
            files["purified/<img src=x onerror=alert(1)>-00000-of-00001.parquet"] = files[
                "purified/train-00000-of-00001.parquet"
            ]
            adds = [CommitOperationAdd(path, data) for path, data in files.items()]
            api.create_commit("ada/bad", adds, commit_message=PAYLOADS[12], repo_type="dataset")
            api.create_tag("ada/bad", tag=f"v1.0.{number}", tag_message=PAYLOADS[0], repo_type="dataset")
        yield hub, url, token


def crawled(client: httpx.Client, most: int) -> Iterator[tuple[str, httpx.Response]]:
    """Pages reached by links from the first; of addresses that differ in numbers alone, a few."""
    todo, seen, kinds = (
        ["/", "/datasets/ada/bad/compare/v1.0.0...v1.0.1", "/datasets/ada/bad/compare/main...v1.0.0"],
        set(),
        {},
    )
    while todo and len(seen) < most:
        address = todo.pop(0)
        if address in seen:
            continue
        seen.add(address)
        answer = client.get(address)
        yield address, answer
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        for found in map(unescape, re.findall(r'href="(/[^"#]*)"', answer.text)):
            kind = re.sub(r"\d+", "", found.split("?")[0])[:45]
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] <= 6 and not found.startswith(("/static", "/datasets/ada/bad/resolve")):
                todo.append(found)


def test_no_page_holds_markup_of_anybody_elses(hub: tuple[Hub, str, str]) -> None:
    with httpx.Client(base_url=hub[1], timeout=60) as client:
        pages = list(crawled(client, 70))
    faults = {address: found for address, answer in pages if (found := _page_faults(answer))}
    assert not faults
    assert len(pages) > 40
    assert [(address, answer.status_code) for address, answer in pages if answer.status_code >= 500] == []


def _page_faults(answer: httpx.Response) -> list[str]:
    if not answer.headers["content-type"].startswith("text/html"):
        return []
    policy = [] if answer.headers.get("content-security-policy") == POLICY else ["policy"]
    return [*faults_of(answer.text), *policy]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_in_an_address_is_answered_and_stays_text(hub: tuple[Hub, str, str], payload: str) -> None:
    said = quote(payload, safe="")
    base = "/datasets/ada/bad"
    with httpx.Client(base_url=hub[1], timeout=60) as client:
        for address in (
            f"/?search={said}",
            f"{base}/rows/purified/train?where={said}",
            f"{base}/rows/purified/train?is.subject={said}&orderby={said}&page={said}",
            f"{base}/questions/{said}",
            f"{base}?revision={said}",
            f"{base}/compare/{said}...v1.0.0",
            f"/login?back={said}",
        ):
            answer = client.get(address)
            assert answer.status_code in (200, 400, 404, 422), (address, answer.text[:200])
            assert faults_of(answer.text) == [], address


def test_the_checker_itself_finds_what_it_should() -> None:
    assert faults_of("<script>1</script>")
    assert faults_of('<p onclick="x">')
    assert faults_of('<a href="javascript:alert(1)">x</a>')
    assert faults_of('<a href="https://evil.example">x</a>')
    assert faults_of("<img src=/x>")
    assert faults_of('<p style="x">')
    assert faults_of('<svg onload="x">')
    assert not faults_of('<a href="https://ok.example" rel="nofollow noopener">x</a><a href="/x">y</a>')
    found = sum(bool(faults_of(f"<p>{payload}</p>")) for payload in PAYLOADS)
    assert found >= 35, "most of the corpus is live when it is not escaped"
