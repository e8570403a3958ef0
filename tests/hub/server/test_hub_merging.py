"""A commit onto a stale parent, on a hub that may merge cards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from served_hub import Served, deleted, inline, serve_for_test

from kp_data.hub.server import HubSettings
from kp_data.hub.server.card_merge import Contradiction, merge_cards


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_for_test(HubSettings(tmp_path_factory.mktemp("hub"), port=0, merge_cards=True)) as found:
        yield found


def card(text: str = "# Text\n", **data: object) -> str:
    return f"---\n{yaml.safe_dump(data)}---\n{text}"


def config(name: str, rows: int = 1) -> dict[str, object]:
    return {
        "configs": [{"config_name": name, "data_files": f"{name}/*"}],
        "dataset_info": {"config_name": name, "rows": rows},
    }


def parts(text: str) -> dict[str, object]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_configs_of_both_sides_come_together_in_order_of_name() -> None:
    merged = parts(
        merge_cards(card(license="mit"), card(license="mit", **config("b")), card(license="mit", **config("a", 2)))
    )
    assert merged == {
        "license": "mit",
        "configs": [{"config_name": name, "data_files": f"{name}/*"} for name in "ab"],
        "dataset_info": [{"config_name": "a", "rows": 2}, {"config_name": "b", "rows": 1}],
    }


def test_what_only_one_side_changed_or_removed_is_taken_from_it() -> None:
    base = card(license="mit", tags=["x"], **config("a"))
    assert parts(
        merge_cards(base, card(tags=["x"], **config("a")), card(license="mit", tags=["y"], **config("a")))
    ) == {
        "tags": ["y"],
        "configs": [{"config_name": "a", "data_files": "a/*"}],
        "dataset_info": [{"config_name": "a", "rows": 1}],
    }
    assert merge_cards(base, card("new text\n", license="mit"), base).endswith("new text\n")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (card(license="mit"), card(license="apache-2.0")),
        (card(**config("a", 1)), card(**config("a", 2))),
        (card("one\n"), card("two\n")),
    ],
)
def test_contradictions_are_not_settled_by_the_hub(ours: str, theirs: str) -> None:
    with pytest.raises(Contradiction):
        merge_cards(card(), ours, theirs)


def test_pushes_of_different_configs_at_once_all_succeed(merging: Served) -> None:
    repo = merging.make()
    parent = repo.write({"README.md": card(license="mit").encode()})

    def send(name: str) -> int:
        files = (inline(f"{name}/x.txt", b"x"), inline("README.md", card(license="mit", **config(name)).encode()))
        return repo.commit(*files, parent=parent).status_code

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(send, "abcdef")) == [200] * 6
    merged = parts(repo.read("README.md").text)
    assert [entry["config_name"] for entry in merged["configs"]] == list("abcdef")  # type: ignore[attr-defined]
    assert len(merged["dataset_info"]) == 6  # type: ignore[arg-type]
    assert repo.paths() == ["README.md", *(f"{name}/x.txt" for name in "abcdef")]
    assert len(repo.client.get(f"{repo.api}/commits/main").json()) == 8


def test_what_both_sides_changed_beside_the_card_is_still_refused(merging: Served) -> None:
    repo = merging.make()
    parent = repo.write({"README.md": card().encode(), "dir/x.txt": b"1", "y.txt": b"1"})
    head = repo.write({"dir/x.txt": b"2"})
    assert repo.commit(inline("dir/x.txt", b"3"), parent=parent).status_code == 412
    assert repo.commit(deleted("dir/"), parent=parent).status_code == 412
    assert repo.commit(inline("y.txt", b"2"), parent="0" * 40).status_code == 412
    assert repo.head == head
    repo.write({"README.md": b"---\nlicense: mit\n---\n"})
    assert repo.commit(inline("README.md", b"---\nlicense: cc0-1.0\n---\n"), parent=parent).status_code == 412
    assert repo.commit(inline("y.txt", b"2"), parent=parent).status_code == 200


def test_a_hub_that_was_not_told_so_merges_nothing(tmp_path: Path) -> None:
    with serve_for_test(HubSettings(tmp_path / "hub", port=0)) as plain:
        repo = plain.make()
        parent = repo.head
        repo.write({"x.txt": b"1"})
        assert repo.commit(inline("y.txt", b"2"), parent=parent).status_code == 412
