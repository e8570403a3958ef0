"""Filters and orders that readers write, parsed and rebuilt: nothing of their text reaches the database.

The language is the dataset viewer's: a condition as SQL writes it after WHERE, columns in double quotes, texts in
single ones. sqlglot parses it; each node that is allowed is written anew with columns known to exist and values as
parameters; anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import Kind

MAX_CHARS: Final = 2_000
MAX_NODES: Final = 200

_COMPARISONS: Final[Mapping[type[exp.Expr], str]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.Like: "LIKE",
    exp.ILike: "ILIKE",
}
_FUNCTIONS: Final[Mapping[type[exp.Expr], str]] = {
    exp.Lower: "lower",
    exp.Upper: "upper",
    exp.Length: "length",
    exp.Abs: "abs",
}


class FilterError(DataError):
    """A filter or an order that cannot be used; says where and what would be right."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition for WHERE: SQL made here, and the values of its `?` in order."""

    sql: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """A column to sort by; equal and missing values keep the order of rows, missing ones come last."""

    column: str
    descending: bool = False

    @property
    def sql(self) -> str:
        """For ORDER BY."""
        return f"{quoted(self.column)} {'DESC' if self.descending else 'ASC'} NULLS LAST"


ALL: Final = Condition("TRUE")


def parse_filter(text: str, kinds: Mapping[str, Kind]) -> Condition:
    """A condition over these columns; an empty text holds for every row.

    Raises:
        FilterError: it cannot be parsed, uses something that is not allowed, or names no column of the table.

    >>> parse_filter("subject = 'law' AND score > 0.5", {"subject": "text", "score": "number"})
    Condition(sql='(("subject" = ?) AND ("score" > ?))', values=('law', 0.5))
    """
    if not text.strip():
        return ALL
    if len(text) > MAX_CHARS:
        raise FilterError(f"the filter is longer than {MAX_CHARS:,} characters")
    try:
        tree = sqlglot.parse_one(f"SELECT 1 WHERE {text}", dialect="duckdb")
        _check_only_where(tree)
        where = tree.args["where"].this
        if sum(1 for _ in where.walk()) > MAX_NODES:
            raise FilterError("the filter has too many parts")
        values: list[Any] = []
        return Condition(_Writer(kinds, values).condition(where), tuple(values))
    except (SqlglotError, RecursionError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, FilterError):
            raise
        raise FilterError(
            'the filter cannot be read; write conditions such as "subject" = \'law\' AND "score" > 0.5'
        ) from error


def equals(column: str, value: str | bool | int | float | None, kinds: Mapping[str, Kind]) -> Condition:
    """That a column holds this value; None: that it holds none.

    Raises:
        FilterError: there is no such column.
    """
    name = _known(column, kinds)
    return Condition(f"({name} IS NULL)") if value is None else Condition(f"({name} = ?)", (value,))


def one_of(column: str, values: Sequence[Any], kinds: Mapping[str, Kind]) -> Condition:
    """That a column holds one of these values.

    Raises:
        FilterError: there is no such column.
    """
    name = _known(column, kinds)
    return Condition(f"({name} IN ({', '.join('?' * len(values))}))", tuple(values)) if values else Condition("FALSE")


def both(conditions: Sequence[Condition]) -> Condition:
    """That all of them hold."""
    kept = [condition for condition in conditions if condition != ALL]
    if not kept:
        return ALL
    values = tuple(value for condition in kept for value in condition.values)
    return Condition(f"({' AND '.join(condition.sql for condition in kept)})", values)


def parse_order(text: str, kinds: Mapping[str, Kind]) -> Order | None:
    """An order such as `score DESC` or `"score" ASC`; None for an empty text.

    Raises:
        FilterError: it is something else, or there is no such column to sort by.

    >>> parse_order('"score" DESC', {"score": "number"})
    Order(column='score', descending=True)
    """
    text = text.strip()
    if not text:
        return None
    name, _, direction = text.rpartition(" ")
    if direction.upper() not in ("ASC", "DESC") or not name:
        name, direction = text, "ASC"
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1].replace('""', '"')
    _known(name, kinds)
    if kinds[name] in ("list", "other"):
        raise FilterError(f"column {name!r} cannot be sorted by; take one of {_listed(_sortable(kinds))}")
    return Order(name, direction.upper() == "DESC")


def quoted(name: str) -> str:
    """A name as SQL writes it; a quote within it is doubled."""
    return '"' + name.replace('"', '""') + '"'


class _Writer:
    """Writes the tree of a condition anew, node by node."""

    def __init__(self, kinds: Mapping[str, Kind], values: list[Any]) -> None:
        self._kinds, self._values = kinds, values

    def condition(self, node: exp.Expr) -> str:
        """Something that holds or does not."""
        if isinstance(node, exp.Paren):
            return self.condition(node.this)
        if isinstance(node, exp.And | exp.Or):
            word = "AND" if isinstance(node, exp.And) else "OR"
            return f"({self.condition(node.this)} {word} {self.condition(node.expression)})"
        if isinstance(node, exp.Not):
            return f"(NOT {self.condition(node.this)})"
        if (sign := _COMPARISONS.get(type(node))) is not None:
            return f"({self.value(node.this)} {sign} {self.value(node.expression)})"
        return self._other_condition(node)

    def _other_condition(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Is):
            return f"({self.value(node.this)} IS {_what_is(node.expression)})"
        if isinstance(node, exp.In) and node.args.get("expressions") and not node.args.get("query"):
            found = ", ".join(self.value(item) for item in node.expressions)
            return f"({self.value(node.this)} IN ({found}))"
        if isinstance(node, exp.Between):
            low, high = self.value(node.args["low"]), self.value(node.args["high"])
            return f"({self.value(node.this)} BETWEEN {low} AND {high})"
        if isinstance(node, exp.Boolean):
            return "TRUE" if node.this else "FALSE"
        if isinstance(node, exp.Column):
            name = self.value(node)
            if self._kinds[node.name] == "bool":
                return name
            raise FilterError(f"column {node.name[:60]!r} is neither yes nor no; compare it, as in {name} = 'x'")
        raise _refused(node)

    def value(self, node: exp.Expr) -> str:
        """A column, a value, or a function of one."""
        if isinstance(node, exp.Paren):
            return self.value(node.this)
        if isinstance(node, exp.Column):
            return self._column(node)
        if (name := _FUNCTIONS.get(type(node))) is not None:
            return f"{name}({self.value(node.this)})"
        self._values.append(_literal(node))
        return "?"

    def _column(self, node: exp.Column) -> str:
        if node.args.get("table") or isinstance(node.this, exp.Star):
            raise _refused(node)
        return _known(node.name, self._kinds)


def _check_only_where(tree: exp.Expr) -> None:
    """A text may end the condition and begin something else, such as GROUP BY or UNION."""
    used = {name for name, value in tree.args.items() if value} - {"expressions", "where", "kind"}
    if not isinstance(tree, exp.Select) or used or not tree.args.get("where"):
        raise FilterError("the filter holds more than a condition; leave out what is not part of it")


def _literal(node: exp.Expr) -> Any:
    if isinstance(node, exp.Literal):
        return node.this if node.is_string else _number(node.this)
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        return -_number(node.this.this)
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    raise _refused(node)


def _number(text: str) -> int | float:
    try:
        number: int | float = int(text)
    except ValueError:
        number = float(text)
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        raise FilterError(f"the number {text[:30]} is too large")
    return number


def _what_is(node: exp.Expr) -> str:
    if isinstance(node, exp.Null):
        return "NULL"
    if isinstance(node, exp.Boolean):
        return "TRUE" if node.this else "FALSE"
    raise _refused(node)


def _known(column: str, kinds: Mapping[str, Kind]) -> str:
    if column not in kinds:
        raise FilterError(f"there is no column {column[:60]!r}; there are {_listed(list(kinds))}")
    return quoted(column)


def _sortable(kinds: Mapping[str, Kind]) -> list[str]:
    return [name for name, kind in kinds.items() if kind not in ("list", "other")]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more


def _refused(node: exp.Expr) -> FilterError:
    what = type(node).__name__.lower()
    return FilterError(
        f"the filter uses something that is not allowed here ({what}); use comparisons, IN, BETWEEN, LIKE, IS NULL, "
        "AND, OR, NOT, and the functions lower, upper, length and abs"
    )
