"""Pages below the cells of a notebook."""

import html
import re

import pytest

from eval import notebook

pytestmark = pytest.mark.slow


def test_attention_is_shown_below_a_cell(make_run, tmp_path, visit):
    runs = [make_run(name, folder=tmp_path, attention=name, init_std=0.5) for name in ("softmax", "softpick")]
    page = notebook.attention(*runs, prompt="To be, or not to be")
    shown = page._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == page.html
    (tmp_path / "cell.html").write_text(f"<!doctype html>{shown}")
    frame = visit(tmp_path / "cell.html").frame_locator("iframe")
    assert frame.locator("figure.map").count() == 2
    assert "sink" in frame.locator("figure.map summary").first.text_content()
    assert page.save(tmp_path / "page.html").read_text() == page.html


def test_a_report_is_shown_below_a_cell(make_run, tmp_path):
    make_run("one", folder=tmp_path)
    shown = notebook.report(tmp_path, title="Mine")._repr_html_()
    assert "Mine" in shown
    assert "nothing to compare" in shown
