"""The page as a reader has it."""

from tests.eval.examples import page_of, three_runs


def test_a_browser_sorts_all_tables_and_shows_the_heatmaps(visit, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page_of(three_runs()))
    opened = visit(file)

    def orders() -> set[str]:
        tables = opened.locator("table.sortable").all()
        return {
            "".join(row.get_attribute("data-run") for row in table.locator("tbody tr").all())
            for table in tables
        }

    assert orders() == {"012"}
    button = opened.locator("[data-key=bits_per_byte] button")
    button.click()
    assert orders() == {"102"}
    button.click()
    assert orders() == {"201"}
    assert opened.locator("figure.map").count() == 3
    assert "1.5e-7" in opened.locator("figure.map .caption").first.text_content()
    # The report has other readers of the keyboard and its own anchors.
    opened.keyboard.press("l")
    assert "#" not in opened.url
    opened.set_viewport_size({"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.emulate_media(media="print")
    assert not opened.locator("nav").is_visible()
    assert opened.locator("figure.map canvas").first.is_visible()
