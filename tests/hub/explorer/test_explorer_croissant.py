"""Croissant: every file with its hash, every column a field that says where it comes from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from purified_folder import TEACHERS, report, write_purified

from kp_data.hub.explorer.croissant import croissant
from kp_data.hub.explorer.dataset import ANYBODY, Dataset, Part
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


def test_a_split_in_several_files_is_a_record_set_for_each(dataset: Dataset, tmp_path: Path) -> None:
    whole = pq.read_table(dataset.parts[0].files[0])
    pq.write_table(whole.slice(0, 6), tmp_path / "0.parquet")
    pq.write_table(whole.slice(6).drop_columns(["context"]), tmp_path / "1.parquet")
    part = Part("purified", "train", (tmp_path / "0.parquet", tmp_path / "1.parquet"), ("p/0.parquet", "p/1.parquet"))
    found = croissant(replace(dataset, parts=(part,)), "http://hub.example", published=1_700_000_000.0)
    records = {each["@id"]: each for each in found["recordSet"]}
    assert [each["description"] for each in records.values()] == ["6 rows", "4 rows"]
    sources = [{field["source"]["fileObject"]["@id"] for field in each["field"]} for each in records.values()]
    assert sources == [{"purified-train-00000"}, {"purified-train-00001"}]
    names = [{field["name"] for field in each["field"]} for each in records.values()]
    assert names[0] - names[1] == {"context"}
    assert found["datePublished"] == "2023-11-14"


def test_a_citation_names_dataset_version_and_address(dataset: Dataset) -> None:
    found = croissant(dataset, "http://hub.example")
    assert found["citeAs"] == f"local/pure, version {dataset.commit}. http://hub.example/datasets/local/pure"
    assert "datePublished" not in found
