"""The page as a reader has it."""

from typing import Any

import pytest

from tests.eval.examples import page_of, run, three_runs
from tests.eval.test_pairs import seeded


@pytest.fixture
def opened(visit, tmp_path) -> Any:
    """The page of two mechanisms with three seeds each."""
    runs = seeded("base", "softmax", {1: 1.50, 2: 1.58, 3: 1.46})
    runs += seeded("pick", "softpick", {1: 1.40, 2: 1.47, 3: 1.37}, sink=0.1)
    file = tmp_path / "report.html"
    file.write_text(page_of(runs))
    return visit(file, viewport={"width": 1440, "height": 900})


def test_a_browser_sorts_all_tables_and_shows_the_heatmaps(visit, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page_of(three_runs()))
    opened = visit(file)

    def orders(key: str) -> set[str]:
        tables = opened.locator("table.sortable").all()
        rows = [table.locator(f"tbody tr[data-{key}]").all() for table in tables]
        found = {" ".join(str(row.get_attribute(f"data-{key}")) for row in some) for some in rows}
        return found - {""}

    assert orders("run") == {"0 1 2"}
    assert orders("variant") == {"softmax softmax*1,swat*3 softpick"}
    button = opened.locator(".forest [data-key=bits_per_byte] button")
    button.click()
    assert orders("variant") == {"softpick softmax softmax*1,swat*3"}
    button.click()
    assert orders("variant") == {"softmax*1,swat*3 softmax softpick"}
    assert orders("run") == {"0 1 2"}
    assert opened.locator("figure.map").count() == 3
    # The report has other readers of the keyboard and its own anchors.
    opened.keyboard.press("l")
    assert "#" not in opened.url
    opened.emulate_media(media="print")
    assert not opened.locator("nav").is_visible()
    assert opened.locator("figure.map canvas").first.is_visible()


def test_the_first_screen_is_the_forest(opened):
    """Better beyond the noise of seeds is green, what includes zero is grey; the bar covers the interval."""
    cell = opened.locator(".forest tr[data-variant=softpick] td").first
    assert cell.bounding_box()["y"] < 900
    assert "better" in cell.get_attribute("class")
    assert cell.get_attribute("title").endswith("95 % interval over 3 seeds")
    assert cell.text_content().strip() == "−0.1000"
    bar, zero = (cell.locator(part).bounding_box() for part in (".bar", ".zero"))
    assert bar["x"] + bar["width"] < zero["x"]
    assert opened.locator(".forest .base td").first.text_content().strip() == "1.5133"


def test_a_curve_is_a_mean_with_values_at_the_pointer(opened):
    place = opened.locator(".chart").nth(1)
    place.scroll_into_view_if_needed()
    over = place.locator(".u-over").bounding_box()
    opened.mouse.move(over["x"] + over["width"] / 2, over["y"] + 20)
    assert place.locator(".readout").text_content() == "step 20softmax 1.513 ± 0.0611softpick 1.413 ± 0.05131"
    # A variant that is switched off is gone from every table and curve.
    opened.locator("button[data-variant=softpick]").first.click()
    opened.mouse.move(over["x"] + over["width"] / 2 + 1, over["y"] + 20)
    assert "softpick" not in place.locator(".readout").text_content()
    assert not opened.locator(".forest tr[data-variant=softpick]").is_visible()
    log = place.get_by_role("button", name="log y")
    log.click()
    assert log.get_attribute("aria-pressed") == "true"


def test_navigation_stays_and_leads_back(opened):
    assert not opened.locator(".scrolled").count()
    opened.locator("nav a[href='#runs']").click()
    opened.wait_for_function("document.body.classList.contains('scrolled')")
    assert opened.locator("nav").bounding_box()["y"] == pytest.approx(0, abs=1)
    opened.locator(".up").click()
    opened.wait_for_function("scrollY === 0")


def test_on_a_phone_validation_comes_first_and_tables_say_that_they_go_on(visit, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page_of(three_runs()))
    opened = visit(file, viewport={"width": 390, "height": 844}, has_touch=True)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    for table in (".forest", "#numbers table >> nth=0"):
        first = opened.locator(table).locator("thead th").nth(1)
        assert first.get_attribute("data-key") == "bits_per_byte"
        box = first.bounding_box()
        assert box["x"] + box["width"] <= 390
    assert opened.locator("#differences .scroll.goes-on").count() == 1
    opened.locator("#differences .scroll").evaluate("box => box.scrollLeft = box.scrollWidth")
    opened.wait_for_function("!document.querySelector('#differences .goes-on')")


def test_a_report_of_one_run_opens(visit, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page_of([run("alone", "softmax", 1.5)]))
    assert "nothing to compare" in visit(file).locator("#differences").text_content()
