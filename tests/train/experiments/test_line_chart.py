from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from kp_train.experiments.lines import Line, Spot, _apart, line_chart


def drawn(lines: list[Line]) -> str:
    return str(line_chart(lines, x_label="teachers", title="Accuracy"))


def line(name: str, *values: float, level: bool = False) -> Line:
    spots = tuple(Spot(n, value, value - 0.02, value + 0.02) for n, value in enumerate(values, start=1))
    return Line(name, spots, level=level)


def test_every_value_can_be_read_without_seeing_the_lines() -> None:
    chart = drawn([line("all", 0.5, 0.45, 0.412), line("fine-tune", 0.4, 0.4, 0.4, level=True)])
    described = ET.fromstring(chart).findtext("desc")
    assert described == "all: 1: 50.0 %, 2: 45.0 %, 3: 41.2 %; fine-tune: 40.0 %."


def test_a_level_line_has_no_marks() -> None:
    assert drawn([line("all", 0.5, 0.4)]).count("<circle") == 2
    assert drawn([line("fine-tune", 0.5, 0.5, level=True)]).count("<circle") == 0


def test_higher_accuracy_stands_higher() -> None:
    heights = [float(found) for found in re.findall(r'<circle cx="[^"]+" cy="([^"]+)"', drawn([line("a", 0.3, 0.6)]))]
    assert heights[0] > heights[1]


def test_names_are_text_and_never_markup() -> None:
    assert "<b>" not in drawn([line("<b>all</b>", 0.5, 0.4)])


@given(st.lists(st.floats(0, 300), min_size=1, max_size=8))
def test_numbers_at_the_ends_of_lines_never_cover_one_another(heights: list[float]) -> None:
    moved = sorted(_apart(heights))
    assert all(after - before >= 13 - 1e-9 for before, after in itertools.pairwise(moved))
    assert all(new >= old for new, old in zip(_apart(heights), heights, strict=True))
