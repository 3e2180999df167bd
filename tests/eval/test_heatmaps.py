import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attention import attend
from eval import analysis, figures, heatmaps
from eval.heatmaps import Recording, Settings
from eval.subject import Subject, open_subject
from models import ModelError

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


def record(subject: Subject, prompt: str = "To be, or not to be", layers: tuple[int, ...] = (0, 2)) -> dict:
    return analysis.evaluate(analysis.get("heatmaps"), subject, Recording(prompt, layers))[0]


def test_the_residual_is_that_of_the_weights_against_the_model(subjects):
    for subject in subjects:
        file = record(subject)
        calls = {}
        tokens = torch.tensor([[subject.bos, *subject.encode("To be, or not to be")]])
        with subject.trace(attention=lambda call, calls=calls: calls.update({call.layer: call})):
            subject.observe(tokens)
        for panels in heatmaps.every(file):
            for panel in panels:
                call = calls[panel.layer]
                weights = torch.tensor(np.nan_to_num(panel.matrix()), dtype=torch.float32)
                mixed = weights @ call.value[0, :, panel.head // 2]
                output = call.output[0, :, panel.head]
                found = (
                    ((mixed - output).norm() / output.norm()).item()
                    if output.norm() > 0
                    else mixed.norm().item()
                )
                # The stored weights have four digits.
                assert found < 2e-3
                assert panel.residual < 1e-5
                assert f"residual {heatmaps.short(panel.residual)} " in panel.caption


def test_every_run_answers_to_its_own_formula(subjects):
    softmax, softpick, swat = (heatmaps.every(record(subject))[0][1].matrix() for subject in subjects)
    assert np.nansum(softmax, 1) == pytest.approx(1, abs=1e-3)
    assert (softpick == 0).any()
    rows, columns = np.indices(swat.shape)
    assert np.array_equal(np.isnan(swat), (columns > rows) | (rows - columns >= 8))
    assert not (swat == 0).any()


def test_zeros_are_counted_among_visible_pairs_only(subjects):
    panel = heatmaps.every(record(subjects[1]))[0][1]
    matrix = panel.matrix()
    assert panel.zeros == pytest.approx((matrix == 0).sum() / (~np.isnan(matrix)).sum())
    assert f"exact zeros {panel.zeros:.0%}" in panel.caption


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
        heatmaps.run(subjects[0], Recording("To be", (0,)))


def test_a_zero_output_must_be_met_exactly():
    zero, one = torch.zeros(3), torch.ones(3)
    assert heatmaps.relative(zero, zero) == 0
    assert heatmaps.relative(one, zero) == float("inf")
    assert heatmaps.relative(one * 1.5, one) == pytest.approx(0.5)


def test_one_colour_scale_for_all_runs(subjects):
    (first, *_), *_ = heatmaps.choose([record(subject) for subject in subjects])
    small = replace(first, weights=[[0.01], [0.0, 0.02]])
    large = replace(first, weights=[[2.5], [None, 0.2]])
    for panels in ([[small, large]], [[small], [large]]):
        log, linear = (figures.Scale.shared(panels, kind) for kind in heatmaps.SCALES)
        assert (log.low, log.high) == pytest.approx((2.5e-4, 2.5))
        assert (linear.low, linear.high) == (0, 2.5)
    assert "log scale, 0.00025 or less to 2.5" in log.words
    assert "linear scale, 0 to 2.5" in linear.words
    assert figures.Scale.shared([[replace(first, weights=[[0.0]])]], "log").high == 1


def test_the_window_of_the_mechanism_holds_where_the_call_names_none(subjects, monkeypatch):
    real = subjects[2].trace

    @contextmanager
    def unnamed(*, attention=None, hidden=None) -> Iterator[None]:
        with real(
            attention=lambda call: attention(replace(call, arguments={**call.arguments, "window": None}))
        ):
            yield

    monkeypatch.setattr(subjects[2], "trace", unnamed)
    layer = heatmaps.run(subjects[2], Recording("To be, or not to be", (0,)))["results"]["layers"][0]
    assert layer["window"] == 8
    assert layer["heads"][0]["weights"][9].count(None) == 2


def test_zeros_and_invisible_keys_look_different_from_small_weights():
    scale = figures.Scale("log", 1e-4, 1.0)
    zero, smallest, invisible, largest = scale.colours(np.array([[0.0, 1e-30, np.nan, 1.0]]))[0]
    assert tuple(zero) == figures.ZERO
    assert smallest[3] == 1
    assert np.abs(smallest[:3] - zero[:3]).max() > 0.2
    assert invisible[3] == 0
    assert np.abs(largest[:3] - smallest[:3]).max() > 0.5


def test_the_figure_has_a_panel_for_each_layer_head_and_run(subjects, tmp_path):
    settings = Settings(
        prompt="To be, or not", layers="0,2", heads="1,3", out=str(tmp_path / "deep" / "maps.v1")
    )
    cells = heatmaps.run_all(subjects, settings)
    assert cells["figure"] == f"{tmp_path}/deep/maps.v1.png {tmp_path}/deep/maps.v1.svg"
    assert (tmp_path / "deep" / "maps.v1.png").read_bytes().startswith(b"\x89PNG")
    files = [json.loads((subject.results / "heatmaps.json").read_text()) for subject in subjects]
    assert {file["results"]["prompt"] for file in files} == {"To be, or not"}
    panels = heatmaps.choose(files, (1, 3))
    assert [[(panel.run, panel.layer, panel.head) for panel in row] for row in panels] == [
        [(name, layer, head) for name in MECHANISMS] for layer in (0, 2) for head in (1, 3)
    ]


def test_a_title_names_the_mechanism_where_the_run_does_not(subjects):
    panel = heatmaps.choose([record(subjects[0])], (1,))[0][0]
    assert replace(panel, run="softmax", mechanism="softmax").title == "softmax"
    assert replace(panel, run="mine", mechanism="softmax").title == "mine (softmax)"


def test_the_figure_prints_run_mechanism_residual_scale_and_tokens(subjects):
    panels = heatmaps.choose([record(subject) for subject in subjects], (1,))
    scale = figures.Scale.shared(panels, "log")
    text = figures.svg(figures.heatmaps(panels, scale, "To be"), "maps", "maps")
    for panel in panels[0]:
        assert f"{panel.title}, layer 0, head 1" in text
        assert panel.caption in text
    assert scale.words in text
    assert "exactly 0" in text
    assert text.count("&lt;s&gt;") == 2 * sum(map(len, panels))


def test_the_default_prompt_is_how_the_first_document_begins(subjects):
    prompt = heatmaps.opening(subjects[0], 12)
    assert TEXT.startswith(prompt)
    assert len(subjects[0].encode(prompt)) in (11, 12)


def test_a_recording_is_reused_until_the_prompt_or_the_layers_change(subjects):
    this = analysis.get("heatmaps")
    record(subjects[0])
    assert analysis.evaluate(this, subjects[0], Recording("To be, or not to be", (0, 2)))[1]
    assert not analysis.evaluate(this, subjects[0], Recording("To be, or not to be", (1,)))[1]


def test_layers_and_heads_are_spread_by_default():
    assert heatmaps.spread(12, 3) == (0, 6, 11)
    assert heatmaps.spread(2, 3) == (0, 1)
    assert heatmaps.spread(1, 2) == (0,)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"layers": "0,7"}, "softmax has no layer 7 .*layers 0 to 2"),
        ({"heads": "4"}, "softmax has no head 4 .*heads 0 to 3"),
        ({"layers": "first"}, "--layers takes numbers .*'first'"),
        ({"heads": "-1"}, "--heads takes numbers .*'-1'"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "be " * 400}, "prompt has .* tokens for softmax, a heatmap takes at most 128"),
        ({"length": 1}, "length must be at least 2"),
        ({"scale": "logg"}, "unknown scale 'logg'; did you mean 'log'"),
    ],
)
def test_mistakes_are_named(subjects, tmp_path, mistake, message):
    with pytest.raises(ModelError, match=message):
        heatmaps.run_all(subjects, Settings(**{"out": str(tmp_path / "maps"), **mistake}))
    assert not list(tmp_path.glob("maps*"))
