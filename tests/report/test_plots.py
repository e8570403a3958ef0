"""Charts of a comparison: to scale, apart, numbered, and closed to markup in names."""

import itertools
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.report.plots import Bucket, Gain, Level, Point, gain_chart, reliability_chart, scatter, stacked_bars

SVG = "{http://www.w3.org/2000/svg}"
shares = st.floats(0, 1)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=20)


def parsed(chart: str) -> ET.Element:
    return ET.fromstring(str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def texts(chart: str) -> list[str]:
    return [element.text or "" for element in parsed(chart).iter(f"{SVG}text")]


def marks(chart: str) -> list[tuple[float, float]]:
    circles = (one for one in parsed(chart).iter(f"{SVG}circle") if "mark" in (one.get("class") or ""))
    return [(float(one.get("cx").rstrip("%")), float(one.get("cy"))) for one in circles]


def plotted(points, levels=()):
    return scatter(points, levels, x_label="calls", x_words=lambda x: f"{x:g}", title="t")


def test_marks_that_keep_apart_stand_to_scale_and_best_first_in_the_legend():
    chart = plotted([Point("cheap", 0, 0.4), Point("dear", 10, 0.8, 0.7, 0.9), Point("middle", 5, 0.6)])
    assert [place for place, _ in marks(chart)] == [95.0, 50.0, 5.0]
    heights = [height for _, height in marks(chart)]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])
    legend = [words for words in texts(chart) if words[:3] in ("1  ", "2  ", "3  ")]
    assert legend == ["1  dear 80.0 % (70.0–90.0)", "2  middle 60.0 %", "3  cheap 40.0 %"]


def test_marks_that_would_cover_one_another_stand_side_by_side_over_what_they_take():
    points = [Point(f"m{number}", 4.0 if number else 1.0, 0.5 + number / 50) for number in range(6)]
    places = sorted(place for place, _ in marks(plotted(points)))
    assert all(after - before >= 17 for before, after in itertools.pairwise(places))
    assert {"1", "4"} <= set(texts(plotted(points)))
    by_name = dict(
        zip(["m5", "m4", "m3", "m2", "m1", "m0"], [place for place, _ in marks(plotted(points))], strict=True)
    )
    assert min(by_name, key=by_name.get) == "m0"


def test_lines_to_compare_with_are_named_and_differ_without_colour():
    chart = plotted([Point("m", 1, 0.5)], [Level("oracle", 0.9), Level("best single teacher", 0.4)])
    assert {"oracle 90.0 %", "best single teacher 40.0 %"} <= set(texts(chart))
    kinds = [line.get("class") for line in parsed(chart).iter(f"{SVG}line") if "level" in (line.get("class") or "")]
    assert kinds == ["level", "level dashed", "level", "level dashed"]


@given(st.lists(st.builds(Point, NAMES, st.floats(0, 100), shares, shares, shares), min_size=1, max_size=12))
def test_every_scatter_is_well_formed_and_within_its_frame(points):
    chart = plotted(points, [Level("line", 0.5)])
    assert len(marks(chart)) == len(points)
    for place, height in marks(chart):
        assert 0 <= place <= 100
        assert 10 <= height <= 270


def test_a_difference_is_filled_only_where_its_interval_leaves_out_zero():
    chart = gain_chart([Gain("sure", 0.05, 0.01, 0.09), Gain("unsure", 0.05, -0.01, 0.11)], title="t")
    kinds = [one.get("class") for one in parsed(chart).iter(f"{SVG}circle")]
    assert kinds == ["mark", "mark hollow"]
    assert "+5.0 (+1.0 to +9.0)" in texts(chart)
    assert [place for place, _ in marks(chart)] == [62.5, 62.5]


@given(st.lists(st.builds(Gain, NAMES, st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=6))
def test_every_difference_stays_within_the_axis(gains):
    assert all(0 <= place <= 100 for place, _ in marks(gain_chart(gains, title="t")))


def test_parts_of_a_bar_are_as_wide_as_their_shares_and_numbered_like_the_legend():
    chart = stacked_bars({"law": {"ada": 0.25, "bo": 0.75}, "art": {"bo": 1.0}}, title="t", description="d")
    rects = [(one.get("x"), one.get("width")) for one in parsed(chart).iter(f"{SVG}rect")]
    assert rects == [("0.00%", "25.00%"), ("25.00%", "75.00%"), ("0.00%", "0.00%"), ("0.00%", "100.00%")]
    assert texts(chart)[:2] == ["1  ada", "2  bo"]
    assert texts(chart)[2:] == ["law", "1", "2", "art", "2"]


def test_a_score_that_means_what_it_says_lies_on_the_diagonal():
    chart = reliability_chart([Bucket(0.0, 0.0, 0.0, 0.1, 9), Bucket(0.5, 0.5, 0.4, 0.6, 9)], title="t")
    line = next(one for one in parsed(chart).iter(f"{SVG}line") if "dashed" in (one.get("class") or ""))
    first, second = marks(chart)
    assert first == (0.0, float(line.get("y1")))
    assert second[1] == pytest.approx((float(line.get("y1")) + float(line.get("y2"))) / 2)


@given(NAMES)
def test_names_of_any_kind_stay_text(name):
    assert f"1  {name} 50.0 %" in texts(plotted([Point(name, 1, 0.5)], [Level(name, 0.5)]))
    assert name in texts(gain_chart([Gain(name, 0.1)], title=name))
    assert f"1  {name}" in texts(stacked_bars({name: {name: 1.0}}, title=name, description=name))
