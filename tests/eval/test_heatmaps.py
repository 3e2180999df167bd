import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from attention import attend
from eval.analyses import heatmaps
from eval.analyses.heatmaps import Result, Settings
from eval.analysis import Evaluated, evaluate
from eval.drawing import heatmaps as drawn
from eval.drawing import style
from eval.drawing.panels import Panel
from eval.heatmap_cells import pack, pool, unpack
from eval.subject import open_subject
from eval.subjects.base import Subject
from models import ModelError
from tests.eval.measuring import measure

pytestmark = pytest.mark.slow

TEXT = (
    "To be, or not to be: that is the question.\nWhether 'tis nobler in the mind to suffer\nThe slings\n" * 3
)
MECHANISMS = ("softmax", "softpick", "swat")


@pytest.fixture(scope="module")
def runs(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Untrained runs whose attention is far from uniform, with grouped heads; SWAT gets a window of 8."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    shape = {"n_layer": 3, "n_head": 4, "n_kv_head": 2, "init_std": 0.5}
    options = {"swat": {"attention_options": {"swat": {"window": 8}}}}
    return [
        make_run(name, folder=folder, attention=name, **shape, **options.get(name, {})) for name in MECHANISMS
    ]


@pytest.fixture
def subjects(runs: list[Path], tmp_path: Path) -> list[Subject]:
    return [
        open_subject(run, text=str(run.parent / "text.txt"), results=tmp_path / "results") for run in runs
    ]


def record(subject: Subject, prompt: str = "To be, or not to be", cells: int = 192) -> Evaluated[Result]:
    return evaluate(heatmaps.ANALYSIS, subject, Settings(prompt=prompt, cells=cells))


def every(found: Evaluated[Result]) -> list[list[Panel]]:
    """All heads of a run: a list for each layer."""
    return [[heatmaps._panel(found, layer, head) for head in layer.heads] for layer in found.results.layers]


def write(subjects: list[Subject], settings: Settings) -> dict[str, object]:
    """Measure the subjects and write viewer and figure."""
    heatmaps.before(settings)
    common = heatmaps.shared(subjects, settings)
    measured = [evaluate(heatmaps.ANALYSIS, subject, common) for subject in subjects]
    return heatmaps.finish(measured, common, subjects)


def panel_of(*rows: list[float | None], **changes: object) -> Panel:
    """A panel of the weights written down, None where invisible."""
    matrix = np.full((len(rows), len(rows)), np.nan)
    for query, row in enumerate(rows):
        matrix[query, : len(row)] = [np.nan if weight is None else weight for weight in row]
    blank = Panel("run", "softmax", 0, 0, 0.0, 0.0, None, None, ["x"] * len(rows), 1, pack(matrix))
    return replace(blank, **changes)


def test_the_residual_is_that_of_the_weights_against_the_model(subjects):
    for subject in subjects:
        file = record(subject)
        calls = {}
        tokens = torch.tensor([[subject.bos, *subject.encode("To be, or not to be")]])
        with subject.trace(attention=lambda call, calls=calls: calls.update({call.layer: call})):
            subject.observe(tokens)
        for panels in every(file):
            for panel in panels:
                call = calls[panel.layer]
                weights = torch.tensor(np.nan_to_num(panel.matrix), dtype=torch.float32)
                mixed = weights @ call.value[0, :, panel.head // 2]
                output = call.output[0, :, panel.head]
                found = (
                    ((mixed - output).norm() / output.norm()).item()
                    if output.norm() > 0
                    else mixed.norm().item()
                )
                # The stored weights have a relative error of up to 4e-4.
                assert found < 2e-3
                assert panel.residual < 1e-5


def test_every_run_answers_to_its_own_formula(subjects):
    softmax, softpick, swat = (every(record(subject))[0][1].matrix for subject in subjects)
    assert np.nansum(softmax, 1) == pytest.approx(1, abs=1e-3)
    assert (softpick == 0).any()
    rows, columns = np.indices(swat.shape)
    assert np.array_equal(np.isnan(swat), (columns > rows) | (rows - columns >= 8))
    assert not (swat == 0).any()


def test_zeros_are_counted_among_visible_pairs_only(subjects):
    panel = every(record(subjects[1]))[0][1]
    matrix = panel.matrix
    assert panel.zeros == pytest.approx((matrix == 0).sum() / (~np.isnan(matrix)).sum())
    assert f"zeros {panel.zeros:.0%}" in panel.caption


def test_sink_and_entropy_are_those_of_the_rows(subjects, monkeypatch):
    """Of rows divided by their magnitude, those without weight and the first left out; in blocks as in one piece."""
    whole = [record(subject) for subject in subjects]
    monkeypatch.setattr(heatmaps, "ENTRIES", 64)
    for subject, found in zip(subjects, whole, strict=True):
        blocks = evaluate(heatmaps.ANALYSIS, subject, Settings(prompt="To be, or not to be"), fresh=True)
        for panel, again in zip(chain(*every(found)), chain(*every(blocks)), strict=True):
            sinks, spreads = [], []
            for row in panel.matrix[1:]:
                seen = np.abs(row[~np.isnan(row)])
                if not seen.sum():
                    continue
                share = seen / seen.sum()
                # A key that a window hides gets nothing.
                sinks.append(0.0 if np.isnan(row[0]) else share[0])
                spreads.append(-sum(p * np.log(p) for p in share if p) / np.log(len(seen)))
            assert panel.sink == pytest.approx(np.mean(sinks), abs=2e-3)
            assert panel.entropy == pytest.approx(np.mean(spreads), abs=2e-3)
            assert (again.sink, again.entropy) == (pytest.approx(panel.sink), pytest.approx(panel.entropy))
            assert f"sink {panel.sink:.2f} · entropy {panel.entropy:.2f} · " in panel.caption


def test_an_output_that_the_weights_do_not_give_is_refused(subjects, monkeypatch):
    real = subjects[0].trace

    @contextmanager
    def tampered(*, attention=None, hidden=None) -> Iterator[None]:
        def altered(call):
            attention(replace(call, output=attend(call.query, call.key, call.value, "softmax", scale=0.3)))

        with real(attention=altered, hidden=hidden):
            yield

    monkeypatch.setattr(subjects[0], "trace", tampered)
    with pytest.raises(
        ModelError, match=r"layer 0, head 0: the recomputed weights do not give .*residual .*limit 1e-03"
    ):
        measure(heatmaps, subjects[0], Settings(prompt="To be", cells=192))


def test_a_zero_output_must_be_met_exactly():
    zero, one = torch.zeros(3), torch.ones(3)
    assert heatmaps.relative(zero, zero) == 0
    assert heatmaps.relative(one, zero) == float("inf")
    assert heatmaps.relative(one * 1.5, one) == pytest.approx(0.5)


def test_one_colour_scale_for_all_runs():
    small, large = panel_of([0.01], [0.0, 0.02]), panel_of([2.5], [None, 0.2])
    for panels in ([[small, large]], [[small], [large]]):
        log, linear = (drawn.Scale.shared(panels, kind) for kind in heatmaps.SCALES)
        assert (log.low, log.high) == pytest.approx((2.5e-4, 2.5))
        assert (linear.low, linear.high) == (0, 2.5)
        assert not log.signed
    assert "log scale, 0.00025 or less to 2.5" in log.words
    assert "linear scale, 0 to 2.5" in linear.words
    assert drawn.Scale.shared([[panel_of([0.0])]], "log").high == 1


@pytest.mark.parametrize("kind", heatmaps.SCALES)
def test_negative_weights_get_a_scale_that_diverges_from_zero(kind):
    panel = panel_of([0.5], [-0.5, 0.25], [-1.0, -1e-9, 0.0])
    scale = drawn.Scale.shared([[panel]], kind)
    assert scale.signed
    assert scale.high == 1
    image = scale.colours(panel.matrix)
    red, blue, neutral = image[0, 0], image[1, 0], image[2, 1]
    assert red[0] > red[2] + 0.1
    assert blue[2] > blue[0] + 0.1
    assert abs(neutral[0] - neutral[2]) < 0.02
    assert tuple(image[2, 2]) == drawn.ZERO
    # The same magnitude is as far from the middle on either side.
    assert scale.norm(0.5) + scale.norm(-0.5) == pytest.approx(1)
    assert f"{kind} scale of magnitude, −1 to 1" in scale.words
    assert "−1 to 1" in style.svg(drawn.draw([[panel]], scale, "x"), "maps", "maps")


def test_a_mechanism_with_negative_weights_is_shown_with_them(make_run, runs, tmp_path):
    options = {"attention_options": {"sa_softmax": {"version": 1}}}
    path = make_run("signed", folder=tmp_path, attention="sa_softmax", init_std=0.5, **options)
    file = record(open_subject(path, text=str(runs[0].parent / "text.txt"), results=tmp_path / "results"))
    panels = every(file)
    assert all((panel.matrix < 0).any() and panel.residual < 1e-5 for layer in panels for panel in layer)
    assert 0 < file.results.layers[0].heads[0].negative < 1
    assert drawn.Scale.shared(panels, "log").signed


def test_a_long_prompt_is_pooled_and_says_so(subjects):
    for subject in subjects:
        whole, pooled = (every(record(subject, "To be, or not to be", cells)) for cells in (192, 8))
        factor = -(-len(whole[0][0].pieces) // 8)
        assert factor > 1
        for fine, coarse in zip(chain(*whole), chain(*pooled), strict=True):
            assert coarse.pool == factor
            assert coarse.matrix == pytest.approx(pool(fine.matrix, factor), rel=8e-4, nan_ok=True)
            assert coarse.labels == fine.pieces[::factor]
            assert (coarse.residual, coarse.zeros) == (fine.residual, fine.zeros)
            assert f"largest of {factor} × {factor}" in coarse.caption


def test_weights_are_computed_some_rows_at_a_time(subjects, monkeypatch):
    held = []
    formula = heatmaps.weights

    def watched(*arguments, **options):
        found = formula(*arguments, **options)
        held.append(found.numel())
        return found

    for subject in subjects:
        whole = measure(heatmaps, subject, Settings(prompt="To be, or not to be", cells=8))["results"]
        tokens, factor = len(whole["pieces"]), whole["pool"]
        heads = len(whole["layers"][0]["heads"])
        with monkeypatch.context() as patch:
            patch.setattr(heatmaps, "weights", watched)
            patch.setattr(heatmaps, "ENTRIES", 2 * heads * tokens * factor)
            parts = measure(heatmaps, subject, Settings(prompt="To be, or not to be", cells=8))["results"]
        assert max(held) <= 2 * heads * tokens * factor < heads * tokens**2
        for layer, expected in zip(parts["layers"], whole["layers"], strict=True):
            for head, known in zip(layer["heads"], expected["heads"], strict=True):
                assert unpack(head) == pytest.approx(unpack(known), rel=1e-3, nan_ok=True)
                assert (head["zeros"], head["negative"]) == (known["zeros"], known["negative"])
                assert head["residual"] < 1e-5


def test_the_window_of_the_mechanism_holds_where_the_call_names_none(subjects, monkeypatch):
    real = subjects[2].trace

    @contextmanager
    def unnamed(*, attention=None, hidden=None) -> Iterator[None]:
        with real(attention=lambda call: attention(replace(call, spec=replace(call.spec, window=None)))):
            yield

    monkeypatch.setattr(subjects[2], "trace", unnamed)
    layer = measure(heatmaps, subjects[2], Settings(prompt="To be, or not to be", cells=192))["results"][
        "layers"
    ][0]
    assert layer["window"] == 8
    assert np.isnan(unpack(layer["heads"][0])[9, :10]).sum() == 2


def test_zeros_and_invisible_keys_look_different_from_small_weights():
    scale = drawn.Scale("log", 1e-4, 1.0)
    zero, smallest, invisible, largest = scale.colours(np.array([[0.0, 1e-30, np.nan, 1.0]]))[0]
    assert tuple(zero) == drawn.ZERO
    assert smallest[3] == 1
    assert np.abs(smallest[:3] - zero[:3]).max() > 0.2
    assert invisible[3] == 0
    assert np.abs(largest[:3] - smallest[:3]).max() > 0.5


def test_the_figure_has_a_panel_for_each_layer_head_and_run(subjects, tmp_path):
    settings = Settings(
        prompt="To be, or not", layers=(0, 2), heads=(1, 3), out=str(tmp_path / "deep" / "maps.v1")
    )
    cells = write(subjects, settings)
    page = tmp_path / "deep" / "maps.v1.html"
    assert cells["viewer"] == f"{page} ({page.stat().st_size / 1e6:.2f} MB)"
    assert cells["figure"] == f"{tmp_path}/deep/maps.v1.png {tmp_path}/deep/maps.v1.svg"
    assert (tmp_path / "deep" / "maps.v1.png").read_bytes().startswith(b"\x89PNG")
    files = [json.loads((subject.results / "heatmaps.json").read_text()) for subject in subjects]
    assert {file["results"]["prompt"] for file in files} == {"To be, or not"}
    assert [[layer["layer"] for layer in file["results"]["layers"]] for file in files] == [[0, 1, 2]] * 3
    measured = [record(subject, "To be, or not") for subject in subjects]
    panels = heatmaps.choose(measured, (0, 2), (1, 3))
    assert [[(panel.run, panel.layer, panel.head) for panel in row] for row in panels] == [
        [(name, layer, head) for name in MECHANISMS] for layer in (0, 2) for head in (1, 3)
    ]


def test_a_title_names_the_mechanism_where_the_run_does_not(subjects):
    panel = heatmaps.choose([record(subjects[0])], heads=(1,))[0][0]
    assert replace(panel, run="softmax", mechanism="softmax").title == "softmax"
    assert replace(panel, run="mine", mechanism="softmax").title == "mine (softmax)"


def test_the_figure_prints_run_mechanism_residual_scale_and_tokens(subjects):
    panels = heatmaps.choose([record(subject) for subject in subjects], heads=(1,))
    scale = drawn.Scale.shared(panels, "log")
    text = style.svg(drawn.draw(panels, scale, "To be"), "maps", "maps")
    for panel in panels[0]:
        assert f"{panel.title}, layer 0, head 1" in text
        assert panel.caption in text
    assert scale.words in text
    assert "exactly 0" in text
    # The tokens stand once to a row and once to a column.
    assert text.count("&lt;s&gt;") == len(panels) + len(panels[0])
    panels[0][0] = replace(panels[0][0], pieces=["other", *panels[0][0].pieces[1:]])
    text = style.svg(drawn.draw(panels, scale, "To be"), "maps", "maps")
    assert text.count("&lt;s&gt;") == 2 * sum(map(len, panels)) - 2


def test_the_default_prompt_is_how_the_first_document_begins(subjects):
    prompt = heatmaps.opening(subjects[0], 12)
    assert TEXT.startswith(prompt)
    assert len(subjects[0].encode(prompt)) in (11, 12)


def test_by_default_the_viewer_and_the_figure_lie_next_to_the_first_run(subjects, monkeypatch):
    monkeypatch.setattr(subjects[0], "path", subjects[0].results.parent / "runs" / "first")
    write(subjects[:1], Settings(length=6))
    written = sorted(path.name for path in (subjects[0].results.parent / "runs").iterdir())
    assert written == ["heatmaps.png", "heatmaps.svg", "viewer.html"]


def test_a_recording_is_reused_until_the_prompt_or_the_cells_change(subjects):
    record(subjects[0])
    settings = Settings(prompt="To be, or not to be", scale="linear", layers=(0,), out="elsewhere")
    assert evaluate(heatmaps.ANALYSIS, subjects[0], settings).reused
    assert not record(subjects[0], cells=8).reused


def test_layers_and_heads_are_spread_by_default():
    assert heatmaps.spread(12, 3) == (0, 6, 11)
    assert heatmaps.spread(2, 3) == (0, 1)
    assert heatmaps.spread(1, 2) == (0,)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"layers": (0, 7)}, "softmax has no layer 7 .*layers 0-2"),
        ({"heads": (4,)}, "softmax has no head 4 .*heads 0-3"),
        ({"layers": ()}, "--layers takes numbers from 0 on"),
        ({"heads": (-1,)}, "--heads takes numbers from 0 on"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "be " * 400}, "prompt has .* tokens for softmax, a heatmap takes at most 128"),
        ({"cells": 4}, "at least 8 cells to a side, got 4"),
        ({"length": 1}, "length must be at least 2"),
        ({"scale": "logg"}, "unknown scale 'logg'; did you mean 'log'"),
    ],
)
def test_mistakes_are_named(subjects, tmp_path, mistake, message):
    with pytest.raises(ModelError, match=message):
        write(subjects, Settings(**{"out": str(tmp_path / "maps"), **mistake}))
    assert not list(tmp_path.glob("maps*"))
