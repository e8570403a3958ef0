"""A person with a keyboard in a real browser: from the list to a conflict to a version's changes, and back.

Needs Playwright and Chromium: `pip install playwright`, and Chromium on the path or named by KP_CHROMIUM. Accessibility
is checked where KP_AXE names axe-core's axe.min.js.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import PAYLOADS
from published_model import FILES, publish_model
from purified_folder import TEACHERS, report, write_purified
from test_explorer_hostile import write_hostile

from kp_data.hub import push
from kp_data.hub.server import HubSettings, issue_token, running
from kp_data.tables import write_json

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("KP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

WIDTHS = (360, 768, 1440)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("journey")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        token, _ = issue_token(hub, "ada", write=True)
        for number, rationale in enumerate(("ada thinks of item {}.", "ada now thinks of item {} again.")):
            made = write_purified(folder / f"v{number}", 40 + number, rationale=rationale)
            write_json({**report(40), "teachers": list(TEACHERS)}, made / "report.json")
            push(made, "ada/things", token=token, endpoint=url)
        publish_model("ada/student", url, token, version="0.1.0")
        yield url


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose every complaint fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    yield page
    context.close()
    assert complaints == []


def press_until(page: Any, words: str, most: int = 80) -> None:
    """Tab to the link or button of that name, and press Enter."""
    for _ in range(most):
        page.keyboard.press("Tab")
        said = page.evaluate(
            "(document.activeElement.getAttribute('aria-label') || document.activeElement.innerText || '')"
        )
        if words in said:
            with page.expect_navigation():
                page.keyboard.press("Enter")
            return
    raise AssertionError(f"no {words!r} within {most} tabs of {page.url}")


def test_the_whole_way_is_walked_by_keyboard(page: Any, hub: str) -> None:
    page.goto(hub)
    press_until(page, "ada/things")
    assert page.get_by_role("heading", level=1).inner_text() == "ada/things"
    press_until(page, "Rows")
    while page.evaluate("document.activeElement.id") != "search":
        page.keyboard.press("Tab")
    page.keyboard.type("thinks")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    # The index is built now, and the page asks again by itself.
    page.wait_for_selector(".count", timeout=60_000)
    assert "17 rows of 17" in page.locator(".count").inner_text()
    press_until(page, "question q001")
    assert "The teachers conclude differently" in page.locator(".lead").inner_text()
    press_until(page, "Versions")
    press_until(page, "What changed since v1.0.0")
    assert page.locator("ins").count() > 0
    page.go_back()
    page.go_back()
    assert "/questions/" in page.url


def test_a_model_is_found_its_dataset_reached_and_its_files_saved_by_keyboard(page: Any, hub: str) -> None:
    page.goto(hub)
    press_until(page, "ada/student")
    assert page.get_by_role("heading", level=1).inner_text() == "ada/student"
    press_until(page, "Versions")
    press_until(page, "v0.1.0")
    press_until(page, "ada/things v1.0.0")
    assert page.url == f"{hub}/datasets/ada/things?revision=v1.0.0"
    page.go_back()
    with page.expect_download() as saved:
        page.get_by_role("link", name="model.safetensors").press("Enter")
    assert Path(saved.value.path()).read_bytes() == FILES["model.safetensors"]


@pytest.fixture(scope="module")
def practice_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A practice world, asked and purified by two methods as a user does it, published as two versions."""
    folder = tmp_path_factory.mktemp("practice")
    kp_data("generate", "practice:80", "--out", folder / "panel", "--quiet")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        token, _ = issue_token(hub, "ada", write=True)
        for method in ("majority", "weighted-vote"):
            kp_data("purify", folder / "panel", "--method", method, "--out", folder / method, "--quiet")
            push(folder / method, "ada/practice", token=token, endpoint=url)
        yield url


def kp_data(*words: str | Path) -> None:
    command = [str(Path(sys.executable).parent / "kp-data"), *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def test_a_practice_world_is_walked_to_a_conflict_and_to_what_changed(page: Any, practice_hub: str) -> None:
    page.goto(practice_hub)
    press_until(page, "ada/practice")
    press_until(page, "Rows")
    while page.evaluate("document.activeElement.name") != "is.conflict":
        page.keyboard.press("Tab")
    page.keyboard.type("yes")
    press_until(page, "Show")
    filtered = page.url
    assert filtered.endswith("?is.conflict=yes")
    assert (
        page.locator("td[data-label=conflict]").all_inner_texts().count("yes") == page.locator("tbody tr").count() > 0
    )
    press_until(page, ", question ")
    assert "The teachers conclude differently" in page.locator(".lead").inner_text()
    assert page.locator(".group").count() > 1
    press_until(page, "Versions")
    press_until(page, "What changed since v1.0.0")
    assert "weighted-vote" in page.locator("ins").all_inner_texts()
    for _ in range(3):
        page.go_back()
    assert page.url == filtered


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_edge_and_axe_has_nothing_to_say(browser: Any, hub: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    for address in PAGES:
        page.goto(hub + address)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), address
        assert violations(page) == [], address
    context.close()


PAGES = (
    "/",
    "/login",
    "/datasets/ada/things",
    "/datasets/ada/things/rows/purified/train",
    "/datasets/ada/things/rows/panel/train?where=error+IS+NOT+NULL",
    "/datasets/ada/things/rows/purified/train?where=nonsense",
    "/datasets/ada/things/questions/q001",
    "/datasets/ada/things/statistics/purified/train",
    "/datasets/ada/things/versions",
    "/datasets/ada/things/compare/v1.0.0...v1.0.1",
    "/datasets/ada/nothing",
    "/ada/student",
    "/ada/student/versions",
    "/ada/nothing",
)


def violations(page: Any) -> list[str]:
    """What axe finds; nothing where axe is not here."""
    path = os.environ.get("KP_AXE")
    if not path:
        return []
    page.evaluate(Path(path).read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]


def test_the_first_page_is_small(browser: Any, hub: str) -> None:
    page, sizes = browser.new_page(), []
    page.on("response", lambda answer: sizes.append(len(answer.body())))
    page.goto(hub, wait_until="networkidle")
    assert 0 < sum(sizes) < 100_000
    page.close()


def test_a_private_dataset_is_shown_after_signing_in_and_gone_after_signing_out(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    with running(HubSettings(tmp_path / "hub", port=0)) as (hub, url):
        token, _ = issue_token(hub, "ada")
        writer, _ = issue_token(hub, "ada", write=True)
        push(write_purified(tmp_path / "pure"), "ada/secret", token=writer, endpoint=url, private=True)
        page.goto(f"{url}/datasets/ada/secret")
        assert "There is nothing here" in page.content()
        page.get_by_role("link", name="sign in", exact=True).click()
        page.fill("#token", "kp_wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        assert "does not know this token" in page.locator("[role=alert]").inner_text()
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_url("**/datasets/ada/secret")
        assert page.locator("h1").inner_text() == "ada/secret"
        with page.expect_download() as saved:
            page.get_by_role("link", name="report.json").click()
        assert json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))["method"] == "best-single"
        assert token not in str(page.context.cookies())
        page.get_by_role("button", name="Sign out").click()
        page.goto(f"{url}/datasets/ada/secret")
        assert "There is nothing here" in page.content()
    page.close()


def test_no_stored_text_runs(browser: Any, tmp_path: Path) -> None:
    from kp_data.hub.explorer.serve import folder_served

    folder = write_hostile(tmp_path / "bad")
    (folder / "README.md").write_text("\n\n".join(PAYLOADS).replace("\x00", ""), encoding="utf-8")
    context = browser.new_context()
    page, ran, asked = context.new_page(), [], []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: ran.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    with folder_served(folder, tmp_path / "indexes") as url:
        base = f"{url}/datasets/local/bad"
        page.goto(f"{base}/rows/purified/train")
        links = [link.get_attribute("href") for link in page.locator("td a").all()]
        for address in [
            "",
            "/rows/purified/train?page=2",
            "/rows/panel/train",
            "/statistics/purified/train",
            "/versions",
        ]:
            page.goto(base + address)
        for link in dict.fromkeys(links):
            page.goto(url + str(link))
            page.mouse.move(200, 300)
    assert ran == []
    assert {address for address in asked if not address.startswith(url)} == set()
    context.close()
