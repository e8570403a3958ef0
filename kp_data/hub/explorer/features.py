"""Column types as the dataset viewer and `datasets.Features` write them, without importing datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

_NAMES: Final = {"double": "float64", "float": "float32", "halffloat": "float16"}


def feature_of(kind: pa.DataType) -> dict[str, Any]:
    """A type as `Features.from_arrow_schema(...).to_dict()` has it.

    >>> feature_of(pa.list_(pa.float64()))
    {'feature': {'dtype': 'float64', '_type': 'Value'}, '_type': 'List'}
    """
    if pa.types.is_fixed_size_list(kind):
        return {"feature": feature_of(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_large_list(kind):
        return {"feature": feature_of(kind.value_type), "_type": "LargeList"}
    if pa.types.is_list(kind):
        return {"feature": feature_of(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {kind.field(index).name: feature_of(kind.field(index).type) for index in range(kind.num_fields)}
    if pa.types.is_dictionary(kind):
        return feature_of(kind.value_type)
    return {"dtype": _dtype(kind), "_type": "Value"}


def features_of(schema: pa.Schema, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The viewer's list of features, of these columns or of all."""
    kept = [field for field in schema if columns is None or field.name in columns]
    return [
        {"feature_idx": number, "name": field.name, "type": feature_of(field.type)} for number, field in enumerate(kept)
    ]


def _dtype(kind: pa.DataType) -> str:
    name = str(kind)
    return _NAMES.get(name, name)
