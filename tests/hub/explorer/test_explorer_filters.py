"""Filters: what readers write is rebuilt from what is allowed, and nothing else gets through."""

from __future__ import annotations

from contextlib import suppress

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.hub.explorer.filters import ALL, Condition, FilterError, both, one_of, parse_filter, parse_order

KINDS = {"subject": "text", "score": "number", "conflict": "bool", "choices": "list", 'odd "name"': "text"}


@pytest.mark.parametrize(
    ("text", "sql", "values"),
    [
        ("", "TRUE", ()),
        ("subject = 'it''s'", '("subject" = ?)', ("it's",)),
        ('"odd ""name""" = \'x\'', '("odd ""name""" = ?)', ("x",)),
        ("NOT conflict", '(NOT "conflict")', ()),
        ("score BETWEEN -1 AND 2.5", '("score" BETWEEN ? AND ?)', (-1, 2.5)),
        ("subject IN ('a', 'b') OR score IS NULL", '(("subject" IN (?, ?)) OR ("score" IS NULL))', ("a", "b")),
        ("lower(subject) LIKE '%law%'", '(lower("subject") LIKE ?)', ("%law%",)),
        ("score > 1 -- the rest is a comment", '("score" > ?)', (1,)),
    ],
)
def test_a_condition_is_written_anew_with_its_values_as_parameters(
    text: str, sql: str, values: tuple[object, ...]
) -> None:
    assert parse_filter(text, KINDS) == Condition(sql, values)


@pytest.mark.parametrize(
    "text",
    [
        "1=1; DROP TABLE x",
        "score > 1 UNION SELECT 1",
        "score > 1 GROUP BY 1",
        "score > 1 LIMIT 1",
        "score > 1 ORDER BY 1",
        "subject = (SELECT 1)",
        "subject IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "read_text('/etc/passwd') = 'x'",
        "getenv('HOME') = 'x'",
        "score::VARCHAR = '1'",
        "CASE WHEN conflict THEN 1 END = 1",
        "other.subject = 'x'",
        "* = 1",
        "subject = $1",
        "subject = ?",
        "nothing = 1",
        "score > 99999999999999999999",
        "score >",
        "'",
        "(" * 900 + "conflict" + ")" * 900,
        " AND ".join(["conflict"] * 300),
        "subject = '" + "x" * 3000 + "'",
    ],
)
def test_what_is_no_plain_condition_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse_filter(text, KINDS)


def test_an_unknown_column_is_answered_with_the_columns_there_are() -> None:
    with pytest.raises(FilterError, match="no column 'mood'; there are subject, score"):
        parse_filter("mood = 1", KINDS)
    with pytest.raises(FilterError, match="no column 'confict'; there are subject, score"):
        parse_filter("score < 1 AND confict", KINDS)


def test_a_column_that_is_no_condition_by_itself_is_said_to_need_one() -> None:
    with pytest.raises(FilterError, match="column 'score' is neither yes nor no; compare it"):
        parse_filter("score", KINDS)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="()'\"=<> ANDORscoreubjt0123456789;-*/,.%", max_size=60))
def test_no_text_whatever_makes_sql_that_the_database_cannot_parse(text: str) -> None:
    try:
        condition = parse_filter(text, KINDS)
    except FilterError:
        return
    with duckdb.connect() as database:
        database.execute(
            'CREATE TABLE t (subject TEXT, score DOUBLE, conflict BOOL, choices TEXT[], "odd ""name""" TEXT)'
        )
        # Comparing a number with a text is the reader's error, not a hole.
        with suppress(duckdb.ConversionException, duckdb.BinderException, duckdb.OutOfRangeException):
            database.execute(f"SELECT * FROM t WHERE {condition.sql}", list(condition.values))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_value_is_found_whatever_characters_it_holds(value: str) -> None:
    literal = "'" + value.replace("'", "''") + "'"
    try:
        condition = parse_filter(f"subject = {literal}", KINDS)
    except FilterError:
        return
    assert condition.values == (value,)


def test_conditions_are_joined_and_nothing_is_nothing() -> None:
    assert both([ALL, ALL]) == ALL
    joined = both([parse_filter("conflict", KINDS), one_of("subject", ["a", "b"], KINDS)])
    assert joined == Condition('("conflict" AND ("subject" IN (?, ?)))', ("a", "b"))
    assert one_of("subject", [], KINDS).sql == "FALSE"


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("score", '"score" ASC NULLS LAST'),
        ('"score" desc', '"score" DESC NULLS LAST'),
        ('"odd ""name""" DESC', '"odd ""name""" DESC NULLS LAST'),
    ],
)
def test_an_order_is_a_column_and_a_direction(text: str, sql: str) -> None:
    order = parse_order(text, KINDS)
    assert order is not None
    assert order.sql == sql


@pytest.mark.parametrize("text", ["choices", "score; DROP TABLE x", "random()", "1", "score DESC, subject"])
def test_another_order_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse_order(text, KINDS)
