"""The viewer in a headless browser: what it shows is what the result files say. Skipped where there is no browser."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from eval.drawing import opening, style, viewer
from eval.drawing.maps import Maps
from eval.heatmap_cells import pack, pool, unpack
from models import ModelError

PIECES = ["<s>", "To", " be", ",", " or", "\n"]
KINDS = ("softmax", "signed", "windowed")


def weights(kind: str, layer: int, head: int, side: int = len(PIECES)) -> np.ndarray:
    """Weights of a head, reproducible: some zeros, some negative or invisible."""
    matrix = np.random.default_rng([layer, head, KINDS.index(kind)]).random((side, side)) ** 3
    matrix[matrix < 0.02] = 0
    if kind == "signed":
        matrix -= 0.3 * (matrix > 0)
    hidden = ~np.tri(side, dtype=bool)
    if kind == "windowed":
        hidden |= np.tri(side, k=-3, dtype=bool)
    return np.where(hidden, np.nan, matrix)


def record(kind: str, pieces: list[str] = PIECES, factor: int = 1) -> Maps:
    """A run of two layers of three heads."""

    def entry(layer: int, head: int) -> dict[str, Any]:
        matrix = weights(kind, layer, head, len(pieces))
        seen = matrix[~np.isnan(matrix)]
        return {
            "head": head,
            "residual": 1.5e-7 * (1 + layer),
            "zeros": float((seen == 0).mean()),
            "negative": float((seen < 0).mean()),
            "sink": round(0.1 + 0.2 * head + 0.3 * layer, 2),
            "entropy": None if kind == "windowed" else 0.5,
            **pack(pool(matrix, factor)),
        }

    layers = [
        {
            "layer": layer,
            "mechanism": kind,
            "window": None,
            "heads": [entry(layer, head) for head in range(3)],
        }
        for layer in range(2)
    ]
    return Maps(f"my-{kind}", kind, KINDS.index(kind), pieces, factor, layers, limit=1e-3)


def prompt(pieces: list[str] = PIECES) -> str:
    return "".join(pieces[1:])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    viewer.write(path, [record(kind) for kind in KINDS], prompt(), place=(0, 0))
    return path


def said(weight: float) -> str:
    """A weight as the page writes it."""
    if np.isnan(weight):
        return "not visible"
    if weight == 0:
        return "exactly 0"
    size = abs(weight)
    digits = f"{size:.1e}".replace("e-0", "e-") if size < 1e-3 else f"{size:#.3g}"
    return ("−" if weight < 0 else "") + digits


def shown(piece: str) -> str:
    return piece.replace("\n", "↵").replace(" ", "·")


def place(page: Any, heatmap: int, query: int, key: int, side: int = len(PIECES)) -> tuple[float, float]:
    """The middle of a cell in its canvas, in CSS pixels."""
    canvas = page.locator("figure.map canvas").nth(heatmap)
    edge = float(canvas.get_attribute("data-edge"))
    cell = (canvas.bounding_box()["width"] - edge) / side
    return edge + (key + 0.5) * cell, (query + 0.5) * cell


def pixel(page: Any, heatmap: int, query: int, key: int) -> list[int]:
    """The colour of a cell: red, green, blue, alpha."""
    x, y = place(page, heatmap, query, key)
    # A copy is read, which tells the browser nothing about how to keep the canvas of the page.
    read = """(canvas, [x, y]) => {
      const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, -Math.floor(x), -Math.floor(y));
      return [...copy.getImageData(0, 0, 1, 1).data];
    }"""
    return page.locator("figure.map canvas").nth(heatmap).evaluate(read, [x, y])


def pick(page: Any, **fields: str) -> None:
    """Choose in the form, as a reader does."""
    for name, value in fields.items():
        field = page.locator(f"[name={name}]")
        if field.count() == 1:
            field.select_option(value)
        else:
            page.locator(f"[name={name}][value='{value}']").dispatch_event("click")


def colour(stops: list[str], share: float) -> np.ndarray:
    parts = np.array([[int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in stops])
    places = np.linspace(0, 1, len(stops))
    return np.array([np.interp(share, places, channel) for channel in parts.T])


def test_the_cell_under_the_pointer_is_read_out_for_every_run(visit, page):
    opened = visit(page)
    matrices = [unpack(pack(weights(kind, 0, 0))) for kind in KINDS]
    canvas = opened.locator("figure.map canvas").first
    canvas.scroll_into_view_if_needed()
    for query, key in np.argwhere(np.tri(len(PIECES)))[::2].tolist():
        x, y = place(opened, 0, query, key)
        canvas.hover(position={"x": x, "y": y})
        lines = opened.locator("figure.map output .cell").all_text_contents()
        for matrix, line in zip(matrices, lines, strict=True):
            cells = f"{query} “{shown(PIECES[query])}” → {key} “{shown(PIECES[key])}”"
            assert line == f"{cells}: {said(matrix[query, key])}"


def test_pointing_at_a_word_colours_the_others_by_their_weight(visit, page):
    opened = visit(page)
    words = opened.locator("figure.map").first.locator(".strip span")
    words.nth(4).hover()
    row = weights("softmax", 0, 0)[4]
    best = int(np.nanargmax(row))
    most = opened.locator("figure.map output .most").first.text_content()
    assert most.startswith(f"most: {best} “{shown(PIECES[best])}” {said(row[best])}")
    background = words.nth(best).evaluate("word => getComputedStyle(word).backgroundColor")
    high = max(np.nanmax(np.abs(weights(kind, 0, 0))) for kind in KINDS)
    expected = colour(style.palettes()["light"], (2 + np.log10(row[best] / high) / style.DECADES) / 2)
    found = [int(part) for part in re.findall(r"\d+", background)[:3]]
    assert np.abs(found - expected).max() <= 4
    assert [words.nth(index).get_attribute("class") for index in (4, 5)] == ["query", "later"]


@pytest.mark.parametrize("kind", ["log", "linear"])
def test_colours_follow_one_scale(visit, page, kind):
    opened = visit(page)
    pick(opened, scale=kind, layer="1", head="2")
    # Without the signed run, magnitudes; with it, a scale that diverges from zero.
    for signed in (True, False):
        if not signed:
            pick(opened, run="1")
        runs = KINDS if signed else ("softmax", "windowed")
        matrices = [weights(run, 1, 2) for run in runs]
        high = max(np.nanmax(np.abs(matrix)) for matrix in matrices)
        stops = style.palettes()["light" if signed else "sequential"]
        for at, matrix in enumerate(matrices):
            for query, key in np.argwhere(np.tri(len(PIECES), k=-1)).tolist():
                weight = matrix[query, key]
                found = pixel(opened, at, query, key)
                if np.isnan(weight):
                    assert found[3] == 0
                elif weight == 0:
                    assert found == pytest.approx([128, 128, 128, 71], abs=2)
                elif query < len(PIECES) - 1:  # the last row is framed
                    size = abs(weight) / high
                    if kind == "log":
                        size = max(0, 1 + np.log10(size) / style.DECADES)
                    share = (1 + np.sign(weight) * size) / 2 if signed else size
                    assert np.abs(np.array(found[:3]) - colour(stops, share)).max() <= 4


def test_layers_and_heads_are_switched_by_mouse_and_keyboard(visit, page):
    opened = visit(page)
    heading = opened.locator("figure.map h4").first
    assert heading.text_content() == "my-softmaxsoftmax, layer 0, head 0"
    opened.get_by_label("next layer").click()
    opened.get_by_label("previous head").click()
    assert "layer 1, head 2" in heading.text_content()
    caption = opened.locator("figure.map .caption").first
    assert caption.locator("summary").text_content().startswith("sink 0.80 · entropy 0.50 · zeros ")
    assert caption.text_content().endswith("residual 3.0e-7")
    opened.locator("h1").click()
    opened.keyboard.press("l")
    opened.keyboard.press("k")
    assert "layer 0, head 0" in heading.text_content()
    opened.keyboard.press("v")
    assert opened.locator("[name=view][value=difference]").is_checked()
    # Differences have a scale of their own.
    assert opened.locator("[name=between][value=linear]").is_checked()
    opened.keyboard.press("s")
    assert opened.locator("[name=between][value=log]").is_checked()
    assert opened.locator("[name=scale][value=log]").is_checked()


def test_arrows_move_over_a_heatmap_that_has_the_focus(visit, page):
    opened = visit(page)
    opened.locator("figure.map canvas").nth(1).focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
        opened.keyboard.press(key)
    matrix = unpack(pack(weights("signed", 0, 0)))
    line = opened.locator("figure.map output .cell").nth(1).text_content()
    query, key = (int(part) for part in re.match(r"(\d+) .* → (\d+) ", line).groups())
    assert query == 3
    assert line.endswith(f": {said(matrix[query, key])}")


@pytest.mark.parametrize("other", ["same", "1.2"])
def test_the_difference_of_two_heads(visit, page, other):
    opened = visit(page)
    pick(opened, view="difference", a="0", b="2", other=other)
    first = unpack(pack(weights("softmax", 0, 0)))
    second = unpack(pack(weights("windowed", *((0, 0) if other == "same" else (1, 2)))))
    between = np.nan_to_num(first) - np.nan_to_num(second)
    caption = opened.locator("figure.map .caption").first.text_content()
    assert caption.startswith(f"largest |A − B| {said(np.abs(between).max())}")
    canvas = opened.locator("figure.map canvas").first
    canvas.scroll_into_view_if_needed()
    for query, key in [(1, 0), (2, 1), (4, 0), (5, 5)]:
        x, y = place(opened, 0, query, key)
        canvas.hover(position={"x": x, "y": y})
        line = opened.locator("figure.map output .cell").first.text_content()
        sign = "+" if between[query, key] > 0 else ""
        number = said(between[query, key]).replace("exactly 0", "0")
        assert line.endswith(f"{sign}{number}  (A {said(first[query, key])}, B {said(second[query, key])})")
    stops = style.palettes()["light"]
    for query, key in [(1, 0), (2, 0), (3, 1)]:
        share = (1 + between[query, key] / np.abs(between).max()) / 2
        assert np.abs(np.array(pixel(opened, 0, query, key)[:3]) - colour(stops, share)).max() <= 4


def test_runs_with_other_tokens_have_no_difference(visit, tmp_path):
    viewer.write(tmp_path / "v.html", [record("softmax"), record("signed", [*PIECES, "!"])], prompt())
    opened = visit(tmp_path / "v.html")
    pick(opened, view="difference")
    assert "different tokens" in opened.locator(".stage").text_content()


def test_a_thumbnail_opens_its_head(visit, page):
    opened = visit(page)
    pick(opened, view="grid")
    thumbnails = opened.locator(".thumbnail")
    assert thumbnails.count() == 3 * 2 * 3
    zeros = unpack(pack(weights("softmax", 1, 2)))
    share = (zeros == 0).sum() / (~np.isnan(zeros)).sum()
    assert thumbnails.nth(5).text_content() == f"0.80 · 0.50 · {100 * share:.0f}%"
    opened.get_by_label("my-signed, layer 1, head 2").click()
    assert "layer 1, head 2" in opened.locator("figure.map h4").first.text_content()


def test_heads_are_sorted_and_filtered_by_what_their_captions_say(visit, page):
    opened = visit(page)
    pick(opened, view="grid", sort="sink", run="2")
    names = [
        text.split("0.")[0] for text in opened.locator(".all").first.locator(".thumbnail").all_text_contents()
    ]
    assert names == [
        f"layer {layer}, head {head}" for layer, head in [(1, 2), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)]
    ]
    opened.locator("[name=bound]").fill("0.5")
    assert opened.locator(".all").first.locator(".thumbnail").count() == 3
    opened.locator("[name=bound]").fill("")
    pick(opened, sort="entropy")
    assert opened.locator(".bound").text_content() == "at most"
    # Between two runs: half of what each is from their mean.
    pick(opened, sort="apart")
    first, *_ = opened.locator(".all").first.locator(".thumbnail").all_text_contents()
    heads = [(layer, head) for layer in (0, 1) for head in range(3)]
    far = {place: apart("softmax", "signed", *place) for place in heads}
    layer, head = max(heads, key=far.__getitem__)
    assert first.startswith(f"layer {layer}, head {head}apart {said(far[layer, head])}")


def apart(one: str, other: str, layer: int, head: int) -> float:
    difference = np.nan_to_num(weights(one, layer, head)) - np.nan_to_num(weights(other, layer, head))
    return float(np.abs(difference).sum(-1).mean() / 4)


def test_it_opens_where_the_runs_differ_most(visit, tmp_path):
    runs = [record("softmax"), record("softmax"), record("signed")]
    heads = [(layer, head) for layer in (0, 1) for head in range(3)]
    layer, head = max(heads, key=lambda place: apart("softmax", "signed", *place))
    found = opening.choose(runs)
    assert (found.layer, found.head, found.a, found.b) == (layer, head, 0, 2)
    viewer.write(tmp_path / "v.html", runs, prompt())
    opened = visit(tmp_path / "v.html")
    assert f"layer {layer}, head {head}" in opened.locator("figure.map h4").first.text_content()
    assert "where the runs differ most" in opened.locator(".viewer").text_content()


def test_one_run_opens_on_its_largest_sink():
    found = opening.choose([record("softmax")])
    assert (found.layer, found.head, found.why) == (1, 2, "the largest sink")
    old = record("softmax")
    layers = [{**layer, "heads": [{**head, "sink": None} for head in layer["heads"]]} for layer in old.layers]
    found = opening.choose([replace(old, layers=layers)])
    assert (found.layer, found.head, found.why) == (0, 0, "")
    other = record("softmax", [*PIECES, "!"])
    assert opening.choose([record("signed"), other]).why == "the largest sink of my-signed"


def test_the_mean_of_heads_is_shown(visit, page):
    opened = visit(page)
    pick(opened, head="mean")
    assert "layer 0, mean of heads" in opened.locator("figure.map h4").first.text_content()
    assert opened.locator("figure.map summary").first.text_content().startswith("sink 0.30 · entropy 0.50")
    expected = np.mean([unpack(pack(weights("softmax", 0, head))) for head in range(3)], 0)
    canvas = opened.locator("figure.map canvas").first
    canvas.scroll_into_view_if_needed()
    x, y = place(opened, 0, 3, 1)
    canvas.hover(position={"x": x, "y": y})
    assert opened.locator("output .cell").first.text_content().endswith(f": {said(expected[3, 1])}")


def test_a_heatmap_is_saved_as_a_picture_with_its_tokens(visit, page):
    opened = visit(page)
    for kind in ("PNG", "SVG"):
        with opened.expect_download() as saved:
            opened.locator("figure.map").first.get_by_role("button", name=kind).click()
        content = Path(saved.value.path()).read_bytes()
        assert saved.value.suggested_filename == f"my-softmaxsoftmax-layer-0-head-0.{kind.lower()}"
        assert content.startswith(b"\x89PNG" if kind == "PNG" else b"<svg")
    root = ElementTree.fromstring(content)
    assert [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")].count("\u00b7be") == 2


def test_the_address_leads_back_to_what_is_shown(visit, page):
    opened = visit(page)
    pick(opened, layer="1", head="2", scale="linear", run="1")
    again = visit(page, "#" + opened.url.partition("#")[2])
    headings = again.locator("figure.map h4").all_text_contents()
    assert headings == ["my-softmaxsoftmax, layer 1, head 2", "my-windowedwindowed, layer 1, head 2"]
    assert again.locator("[name=scale][value=linear]").is_checked()


@pytest.mark.parametrize("view", ["side", "grid"])
def test_without_a_run_the_page_says_so(visit, page, view):
    opened = visit(page, f"#view={view}&run=")
    assert opened.locator(".stage").text_content() == "No run is chosen."
    assert "Infinity" not in opened.locator(".viewer .legend").text_content()


def test_pooled_cells_name_all_their_tokens(visit, tmp_path):
    pieces = ["<s>"] + [f" w{index}" for index in range(11)]
    viewer.write(tmp_path / "v.html", [record("softmax", pieces, factor=4)], prompt(pieces), place=(0, 0))
    opened = visit(tmp_path / "v.html")
    assert "4 queries and 4 keys" in opened.locator("header").text_content()
    assert "each cell the largest of 4 × 4" in opened.locator(".caption").first.text_content()
    canvas = opened.locator("figure.map canvas").first
    x, y = place(opened, 0, 2, 1, 3)
    canvas.hover(position={"x": x, "y": y})
    expected = said(unpack(pack(pool(weights("softmax", 0, 0, 12), 4)))[2, 1])
    line = opened.locator("figure.map output .cell").first.text_content()
    assert line == f"8–11 “·w7·w8·w9·w10” → 4–7 “·w3·w4·w5·w6”: {expected}"


@pytest.mark.parametrize("view", ["side", "difference", "grid"])
def test_a_phone_scrolls_down_only(visit, page, view):
    opened = visit(page, f"#view={view}", viewport={"width": 390, "height": 844}, has_touch=True)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.locator(".stage canvas").first.bounding_box()["width"] > 60


def test_paper_gets_the_heatmaps_in_light_colours(visit, page):
    dark = visit(page, color_scheme="dark")
    pick(dark, view="difference")
    before = pixel(dark, 0, 1, 0)
    dark.emulate_media(media="print")
    assert not dark.locator("form").is_visible()
    assert dark.locator("figure.map canvas").first.is_visible()
    light = visit(page, "#view=difference")
    light.emulate_media(media="print")
    assert pixel(dark, 0, 1, 0) == pixel(light, 0, 1, 0) != before


def test_texts_are_text(visit, tmp_path):
    pieces = ["</script><b>x", "<img src=x onerror=alert(1)>", "&amp;"]
    viewer.write(tmp_path / "v.html", [record("softmax", pieces)], prompt(pieces))
    opened = visit(tmp_path / "v.html")
    assert opened.locator("img, b b").count() == 0
    assert opened.locator(".strip").first.text_content() == "".join(pieces)


def test_the_page_stays_of_a_sensible_size(tmp_path):
    """Six layers of four heads of five runs, 512 tokens pooled to 171 cells."""
    side = -(-512 // -(-512 // 192))
    head = pack(np.tril(np.full((side, side), 0.5)))
    heads = [{"head": head_, "residual": 0, "zeros": 0, "negative": 0, **head} for head_ in range(4)]
    layers = [{"layer": layer, "mechanism": "softmax", "window": None, "heads": heads} for layer in range(6)]
    runs = [replace(record("softmax"), place=place, layers=layers) for place in range(5)]
    assert side == 171
    assert viewer.write(tmp_path / "v.html", runs, prompt()) < 5e6


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        viewer.write(tmp_path / "file" / "v.html", [record("softmax")], prompt())
