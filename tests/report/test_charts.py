"""Charts: well-formed, to scale, readable without colour, and closed to markup in names."""

import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kp_data.report.charts import Estimate, heatmap, interval_chart, share_bars

SVG = "{http://www.w3.org/2000/svg}"
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=20)


def parsed(chart: str) -> ET.Element:
    # As str: Markup would escape what it is joined with.
    return ET.fromstring(str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def texts(chart: str) -> list[str]:
    return [element.text or "" for element in parsed(chart).iter(f"{SVG}text")]


def test_an_interval_is_drawn_to_scale_with_its_numbers_beside_it():
    chart = interval_chart([Estimate("purified", "test", 0.6, 0.5, 0.75)], title="t", description="d")
    lines = [line for line in parsed(chart).iter(f"{SVG}line") if line.get("class") == "interval"]
    assert [(line.get("x1"), line.get("x2")) for line in lines] == [("50.00%", "75.00%")]
    assert "test 60.0 (50.0–75.0)" in texts(chart)
    assert "60.00%" in {element.get("x") for element in parsed(chart).iter(f"{SVG}svg")}


def test_series_differ_in_shape_and_not_in_colour_alone():
    chart = interval_chart([Estimate("a", "test", 0.5), Estimate("a", "ood", 0.4)], title="t", description="d")
    marks = [element.tag for element in parsed(chart).iter() if "mark" in (element.get("class") or "").split()]
    assert marks == [f"{SVG}circle", f"{SVG}path"]


def test_an_estimate_without_interval_has_no_line():
    chart = interval_chart([Estimate("a", "", 0.5)], title="t", description="d")
    assert 'class="interval"' not in chart
    assert "50.0" in texts(chart)


def test_a_heatmap_has_a_number_in_every_cell_but_the_diagonal():
    share_TT = np.array([[1.0, 0.25, np.nan], [0.25, 1.0, 0.5], [np.nan, 0.5, 1.0]])
    chart = heatmap(["ada", "bo", "cy"], share_TT, title="t", description="d")
    cells = list(parsed(chart).iter(f"{SVG}rect"))
    assert len(cells) == 6
    assert sorted(texts(chart)) == sorted(["1", "2", "3", "25", "–", "25", "50", "–", "50", "1  ada", "2  bo", "3  cy"])
    assert cells[0].get("fill-opacity") == f"{0.55 * 0.25:.3f}"


def test_a_bar_is_as_long_as_its_share():
    chart = share_bars({"ada": 0.75, "bo": 0.25}, title="t", description="d")
    assert [rect.get("width") for rect in parsed(chart).iter(f"{SVG}rect")] == ["60.00%", "20.00%"]
    assert {"75.0 %", "25.0 %"} <= set(texts(chart))


@given(NAMES)
def test_names_of_any_kind_stay_text(name):
    chart = share_bars({name: 0.5}, title=name, description=name)
    assert name in texts(chart)
    assert parsed(chart).find(f"{SVG}title").text == (name or None)
    square = heatmap([name, "other"], np.full((2, 2), 0.5), title="t", description="d")
    assert f"1  {name}" in texts(square)


def test_every_chart_names_and_describes_itself():
    root = parsed(share_bars({"ada": 1.0}, title="Shares", description="ada has all."))
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert (title.text, description.text) == ("Shares", "ada has all.")
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert root.get("role") == "img"
