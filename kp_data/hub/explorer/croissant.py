"""A dataset in MLCommons' Croissant vocabulary: its files with their hashes, its record sets with their fields.

Source: Croissant format specification 1.1, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.render import url

_HASH: Final = re.compile(r"[0-9a-f]{64}")

_CONTEXT: Final = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(dataset: Dataset, endpoint: str, *, published: float | None = None) -> dict[str, Any]:
    """The JSON-LD of a version.

    Args:
        dataset: which.
        endpoint: where its files are to be had, without a slash at its end.
        published: when, in seconds since 1970; None: nobody noted it.
    """
    page = endpoint + url("datasets", *dataset.name.split("/"))
    metadata = dataset.metadata
    # A version of ours where this is one; of a folder nobody has numbered, its state.
    version = str(dataset.json("manifest.json").get("version") or dataset.commit)
    found: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": str(metadata.get("pretty_name") or dataset.name.rpartition("/")[2]),
        "description": f"{dataset.name} at {dataset.revision}",
        "url": page,
        "version": version,
        "citeAs": f"{dataset.name}, version {version}. {page}",
        "distribution": [
            _file(part, number, page, dataset) for part in dataset.parts for number in range(len(part.files))
        ],
        "recordSet": [_records(part, number) for part in dataset.parts for number in range(len(part.files))],
    }
    if licence := metadata.get("license"):
        found["license"] = str(licence)
    if published is not None:
        found["datePublished"] = datetime.fromtimestamp(published, UTC).date().isoformat()
    return found


def _file(part: Part, number: int, page: str, dataset: Dataset) -> dict[str, Any]:
    path = part.paths[number] if part.paths else part.files[number].name
    return {
        "@type": "cr:FileObject",
        "@id": _id(part, number),
        "name": path.rpartition("/")[2],
        "contentUrl": f"{page}{url('resolve', dataset.commit, *path.split('/'))}",
        "contentSize": f"{part.files[number].stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": _sha256(part.files[number], part.files[number].stat().st_mtime_ns),
    }


def _records(part: Part, number: int) -> dict[str, Any]:
    # One for each file: a record set over several has no form that the reference reader (mlcroissant 1.1.1) reads.
    name = _name(part, number)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{part.rows_of_files[number]} rows",
        "field": [_field(part, number, field) for field in part.schema if field.name in part.columns_of_files[number]],
    }


def _field(part: Part, number: int, field: pa.Field) -> dict[str, Any]:
    repeated = part.kinds[field.name] == "list"
    kind = field.type.value_type if repeated else field.type
    return {
        "@type": "cr:Field",
        "@id": f"{_name(part, number)}/{field.name}",
        "name": field.name,
        "dataType": _type(kind),
        "source": {"fileObject": {"@id": _id(part, number)}, "extract": {"column": field.name}},
        **({"repeated": True} if repeated else {}),
    }


def _name(part: Part, number: int) -> str:
    return f"{part.config}/{part.split}" + (f"/{number:05d}" if len(part.files) > 1 else "")


def _id(part: Part, number: int) -> str:
    return f"{part.config}-{part.split}-{number:05d}"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:DateTime" if pa.types.is_timestamp(kind) else "sc:Text"


@lru_cache(maxsize=4096)
def _sha256(file: Path, changed: int) -> str:
    """Of a file; one of the hub's is named by it."""
    if _HASH.fullmatch(file.stem):
        return file.stem
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
