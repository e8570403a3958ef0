"""Croissant: every file with its hash, every column a field that says where it comes from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from purified_folder import TEACHERS, report, write_purified

from kp_data.hub.explorer.croissant import croissant
from kp_data.hub.explorer.dataset import ANYBODY, Dataset
from kp_data.hub.explorer.local import FolderCatalogue
from kp_data.tables import write_json


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = write_purified(tmp_path / "pure")
    write_json({**report(10), "teachers": list(TEACHERS)}, folder / "report.json")
    return FolderCatalogue(folder).open(ANYBODY, "local/pure")


def test_files_are_named_with_their_size_and_hash(dataset: Dataset) -> None:
    found = croissant(dataset, "http://hub.example")
    file = found["distribution"][0]
    data = dataset.parts[0].files[0].read_bytes()
    assert file["contentUrl"] == f"http://hub.example/datasets/local/pure/resolve/{dataset.commit}/purified.parquet"
    assert (file["sha256"], file["contentSize"]) == (hashlib.sha256(data).hexdigest(), f"{len(data)} B")


def test_fields_point_to_the_files_that_hold_them(dataset: Dataset) -> None:
    found = croissant(dataset, "http://hub.example")
    files = {file["@id"] for file in found["distribution"]}
    fields = {field["@id"]: field for records in found["recordSet"] for field in records["field"]}
    assert {field["source"]["fileObject"]["@id"] for field in fields.values()} == files
    assert fields["purified/all/score"]["dataType"] == "sc:Float"
    assert fields["purified/all/conflict"]["dataType"] == "sc:Boolean"
    assert fields["purified/all/choices"]["repeated"] is True
    assert len(fields) == sum(len(part.kinds) for part in dataset.parts)


def test_every_name_stands_once(dataset: Dataset) -> None:
    found = croissant(dataset, "http://hub.example")
    names = [each["@id"] for each in (*found["distribution"], *found["recordSet"])]
    names += [field["@id"] for records in found["recordSet"] for field in records["field"]]
    assert len(names) == len(set(names))
