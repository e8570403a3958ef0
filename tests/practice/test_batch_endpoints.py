"""The batch endpoints of the practice server, asked as any client would."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from kp_data.errors import ConfigError
from kp_data.practice import TEACHERS, make_questions, practice_server
from kp_data.practice.batch_jobs import BatchBehaviour
from kp_data.teachers.prompts import build_messages

ASKED = [build_messages(question, mode="blind") for question in make_questions(6)]
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
def url() -> Iterator[str]:
    with practice_server() as url:
        yield url


def call(url: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status, and the body: parsed, or line by line."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, content = error.code, error.read()
    lines = [json.loads(line) for line in content.splitlines()]
    return status, lines[0] if len(lines) == 1 and "custom_id" not in lines[0] else lines


def upload(url: str, requests: list[dict[str, Any]]) -> str:
    content = b"\n".join(json.dumps(request).encode() for request in requests)
    form = (
        b'--X\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--X\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' + content + b"\r\n--X--\r\n"
    )
    status, file = call(url + "/files", "POST", form, {"Content-Type": "multipart/form-data; boundary=X"})
    assert (status, file["filename"], file["bytes"]) == (200, "in.jsonl", len(content))
    return str(file["id"])


def openai_job(url: str, requests: list[dict[str, Any]]) -> Any:
    body = {"input_file_id": upload(url, requests), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    status, batch = call(url + "/batches", "POST", {**body, "metadata": {"of": "us"}})
    assert status == 200
    return batch


def openai_request(n: int, **fields: Any) -> dict[str, Any]:
    body = {"model": "ada", "messages": ASKED[n], "temperature": 0, **fields}
    return {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def anthropic_request(n: int, **fields: Any) -> dict[str, Any]:
    return {
        "custom_id": f"r-{n}",
        "params": {"model": "ada", "messages": ASKED[n], "temperature": 0, "max_tokens": 500, **fields},
    }


def test_a_job_of_openais_goes_its_way_and_answers_as_the_teacher_does(url: str) -> None:
    batch = openai_job(url, [openai_request(n) for n in range(6)])
    assert (batch["status"], batch["metadata"]) == ("in_progress", {"of": "us"})
    assert call(f"{url}/batches/{batch['id']}")[1]["status"] == "in_progress"
    batch = call(f"{url}/batches/{batch['id']}")[1]
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 6, "completed": 6, "failed": 0})
    assert batch["error_file_id"] is None
    _, rows = call(f"{url}/files/{batch['output_file_id']}/content")
    # Not in the order of the requests, and each with its own id.
    assert [row["custom_id"] for row in rows] != [f"r-{n}" for n in range(6)]
    said = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}
    assert said == {f"r-{n}": TEACHERS["ada"].answer(ASKED[n]).text for n in range(6)}


def test_a_job_of_anthropics_goes_its_way_and_answers_as_the_teacher_does(url: str) -> None:
    base = url + "/messages/batches"
    status, batch = call(base, "POST", {"requests": [anthropic_request(n) for n in range(6)]}, VERSION)
    assert (status, batch["processing_status"], batch["request_counts"]["processing"]) == (200, "in_progress", 6)
    assert call(f"{base}/{batch['id']}/results")[0] == 404
    call(f"{base}/{batch['id']}")
    batch = call(f"{base}/{batch['id']}")[1]
    assert (batch["processing_status"], batch["request_counts"]["succeeded"]) == ("ended", 6)
    _, rows = call(batch["results_url"])
    said = {row["custom_id"]: row["result"]["message"]["content"][0]["text"] for row in rows}
    assert said == {f"r-{n}": TEACHERS["ada"].answer(ASKED[n]).text for n in range(6)}


def test_requests_that_are_wrong_fail_alone_and_jobs_that_are_wrong_fail_whole(url: str) -> None:
    batch = openai_job(url, [openai_request(0), openai_request(1, model="nobody")])
    call(f"{url}/batches/{batch['id']}")
    batch = call(f"{url}/batches/{batch['id']}")[1]
    _, (row,) = call(f"{url}/files/{batch['error_file_id']}/content")
    assert (row["custom_id"], row["response"]["status_code"]) == ("r-1", 400)
    batch = openai_job(url, [openai_request(0), openai_request(0)])
    assert (batch["status"], batch["errors"]["data"][0]["message"]) == (
        "failed",
        "two requests have the same custom_id",
    )
    base = url + "/messages/batches"
    wrong = [anthropic_request(0, seed=1), anthropic_request(1, max_tokens=None)]
    _, batch = call(base, "POST", {"requests": wrong}, VERSION)
    call(f"{base}/{batch['id']}")
    _, rows = call(f"{base}/{batch['id']}/results")
    messages = {row["custom_id"]: row["result"]["error"]["error"]["message"] for row in rows}
    assert messages == {"r-0": "seed: Extra inputs are not permitted", "r-1": "max_tokens: Field required"}


def test_what_is_handed_in_wrongly_is_refused_in_the_shape_of_the_dialect(url: str) -> None:
    assert call(url + "/batches", "POST", {"input_file_id": "file-9"})[0] == 400
    assert call(url + "/messages/batches", "POST", {"requests": []})[0] == 400
    bodies: tuple[Any, ...] = (b"{", b"[]", b"3", {"requests": 3}, {"requests": [3]}, {"requests": [{}]})
    for body in bodies:
        assert call(url + "/messages/batches", "POST", body, VERSION)[0] == 400
    for path in ("/batches/none", "/messages/batches/none", "/files/none/content"):
        assert call(url + path)[0] == 404


def test_lists_are_read_page_by_page_newest_first(url: str) -> None:
    ids = [openai_job(url, [openai_request(0)])["id"] for _ in range(5)]
    found: list[str] = []
    query, more = "?limit=2", True
    while more:
        _, page = call(f"{url}/batches{query}")
        found += [batch["id"] for batch in page["data"]]
        query, more = f"?limit=2&after={found[-1]}", page["has_more"]
    assert found == ids[::-1]


def test_a_file_that_was_deleted_makes_no_job(url: str) -> None:
    file = upload(url, [openai_request(0)])
    assert call(f"{url}/files/{file}", "DELETE")[1]["deleted"]
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert call(url + "/batches", "POST", body)[0] == 400


def test_a_cancelled_job_keeps_what_was_finished() -> None:
    with practice_server(batches=BatchBehaviour(looks=100, finished=0.5)) as url:
        batch = openai_job(url, [openai_request(n) for n in range(6)])
        assert call(f"{url}/batches/{batch['id']}/cancel", "POST")[1]["status"] == "cancelled"
        batch = call(f"{url}/batches/{batch['id']}")[1]
        assert len(call(f"{url}/files/{batch['output_file_id']}/content")[1]) == 3
        rows = call(f"{url}/files/{batch['error_file_id']}/content")[1]
        assert {row["error"]["code"] for row in rows} == {"batch_cancelled"}
        told = call(url.removesuffix("/v1") + "/stats")[1]
        assert (told["batches"]["answered"], told["completed"]) == (3, 3)


def test_a_key_is_demanded_in_the_way_of_either_dialect() -> None:
    with practice_server(api_key="right-key") as url:
        assert call(url + "/messages/batches")[0] == 401
        assert call(url + "/messages/batches", headers={"x-api-key": "right-key"})[0] == 200
        assert call(url + "/batches", headers={"Authorization": "Bearer right-key"})[0] == 200


def test_faults_are_met_in_turn_and_counted() -> None:
    with practice_server(batches=BatchBehaviour(faults="list:500,list:429")) as url:
        assert [call(url + "/batches")[0] for _ in range(3)] == [500, 429, 200]
        assert call(url.removesuffix("/v1") + "/stats")[1]["batches"]["met"] == {"list:500": 1, "list:429": 1}


@pytest.mark.parametrize("faults", ["nowhere:500", "look:200", "look", "look:broken"])
def test_a_fault_that_there_is_not_is_refused(faults: str) -> None:
    with (
        pytest.raises(ConfigError, match="write ENDPOINT:FAULT"),
        practice_server(batches=BatchBehaviour(faults=faults)),
    ):
        pass
