"""Full-text search over all text columns of a part: tantivy, ranked by BM25.

Every word of a query must occur, in whatever column; words in quotes must stand together; words are compared by their
English stem, which leaves other languages usable. The index holds row numbers and no text, so it is a fraction of the
table's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import tantivy

from kp_data.hub.explorer.dataset import Part

MAX_WORDS_CHARS: Final = 500

_HEAP_BYTES: Final = 64 * 2**20
_ROWS_AT_ONCE: Final = 2_000
_TOKENIZER: Final = "en_stem"


def build_fulltext(part: Part, folder: Path, progress: Callable[[float], None] = lambda _: None) -> None:
    """Write the index of a part into an empty folder.

    Args:
        part: whose text columns are indexed, lists of texts among them.
        folder: exists and is empty.
        progress: is told the share of rows done.
    """
    index = tantivy.Index(_schema(), path=str(folder))
    writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
    num_rows = max(1, part.num_rows)
    for row, text in _texts(part):
        writer.add_document(tantivy.Document(row=row, text=text))
        if row % _ROWS_AT_ONCE == 0:
            progress(row / num_rows)
    writer.commit()
    writer.wait_merging_threads()


class FullText:
    """Searches an index that was built."""

    def __init__(self, folder: Path) -> None:
        self._index = tantivy.Index.open(str(folder))
        self._index.reload()

    def search(self, words: str, *, offset: int = 0, length: int = 100) -> tuple[list[int], int]:
        """Row numbers, best first, and how many rows there are in all.

        Args:
            words: what a reader typed; what makes no sense as a query is read as plain words.
            offset: hits to leave out.
            length: hits wanted.
        """
        words = words[:MAX_WORDS_CHARS].replace("\x00", " ").strip()
        if not words or length < 1:
            return [], 0
        # Only quotes keep their meaning: field names, ranges and boosts are the library's language, not the reader's.
        plain = "".join(char if char.isalnum() or char in '"' or char.isspace() else " " for char in words)
        query, _ = self._index.parse_query_lenient(_without_operators(plain), ["text"], conjunction_by_default=True)
        searcher = self._index.searcher()
        # The library sets memory aside for every hit up to the last one asked for, whether or not there are so many:
        # of an offset of billions the process would die.
        most = max(1, int(searcher.num_docs))
        found: Any = searcher.search(query, limit=min(length, most), offset=min(offset, most), count=True)
        rows = searcher.fast_field_values("row", [address for _, address in found.hits]) if found.hits else []
        return [int(row) for row in rows if row is not None], int(found.count or 0)


def _without_operators(words: str) -> str:
    """AND, OR and NOT are words like others; an odd quote is dropped."""
    if words.count('"') % 2:
        words = words[::-1].replace('"', " ", 1)[::-1]
    return " ".join(word.lower() if word in ("AND", "OR", "NOT", "IN", "TO") else word for word in words.split())


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("row", stored=False, fast=True)
    builder.add_text_field("text", stored=False, tokenizer_name=_TOKENIZER)
    return builder.build()


def _texts(part: Part) -> Iterator[tuple[int, str]]:
    """(row number, all its text) of every row; a stretch of rows in memory at a time."""
    columns = [name for name, kind in part.kinds.items() if kind == "text" or (kind == "list" and _of_text(part, name))]
    row = 0
    for file in part.files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=columns):
                lists = [column.to_pylist() for column in batch.columns]
                for values in zip(*lists, strict=True) if lists else ():
                    yield row, "\n".join(_flat(values))
                    row += 1


def _of_text(part: Part, name: str) -> bool:
    return str(part.schema.field(name).type.value_type) in ("string", "large_string")


def _flat(values: Sequence[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, str))
