"""Rounding by hand, what every method does to the loss, and that nothing of it remains."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eval import provenance
from eval.analyses import quantize
from eval.analyses.quantize import METHODS, Settings
from eval.quantization.rounding import round_to_nearest
from eval.quantization.weights import replaced, weight_matrices
from eval.subject import open_subject
from eval.windows import cut
from models import ModelError
from storage import checkpoint_path
from storage.checkpoint import WEIGHTS
from tests.eval.conftest import RunMaker
from tests.eval.measuring import measure, typed


def test_a_group_by_hand() -> None:
    # Range [-1, 2] in 3 steps of 1, zero point 1: the levels are -1, 0, 1, 2.
    weight = torch.tensor([[-1.0, -0.4, 0.6, 2.0]])
    assert round_to_nearest(weight, 2, 4).weight().tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    # One bit: -1 and 2 are 3 apart, the zero point rounds to 0, so the levels are 0 and 3.
    assert round_to_nearest(weight, 1, 4).weight().tolist() == [[0.0, 0.0, 0.0, 3.0]]


def test_groups_are_independent_and_the_last_may_be_short() -> None:
    weight = torch.tensor([[0.0, 3.0, 0.0, 300.0, 0.0, 7.0, 4.4]])
    assert round_to_nearest(weight, 2, 2).weight().tolist() == [
        [0.0, 3.0, 0.0, 300.0, 0.0, 7.0, pytest.approx(4.4)]
    ]
    together = round_to_nearest(weight, 2, 7).weight()
    assert together.tolist() == [[0.0, 0.0, 0.0, 300.0, 0.0, 0.0, 0.0]]


def test_zeros_stay_and_many_bits_change_nothing() -> None:
    assert round_to_nearest(torch.zeros(2, 5), 4, 4).weight().tolist() == torch.zeros(2, 5).tolist()
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(round_to_nearest(weight, 8, 1).weight(), weight, atol=1e-6, rtol=0)
    with pytest.raises(ModelError, match="not finite"):
        round_to_nearest(torch.tensor([[float("nan")]]), 4, 64)


def test_error_never_exceeds_half_a_step_of_each_group() -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    for bits in (2, 3, 4, 8):
        groups = weight.unflatten(1, (-1, 32))
        span = groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)
        # Rounding the zero point may move a value by another half step at the ends of the range.
        limit = span / (2**bits - 1) * 1.0001
        error = (round_to_nearest(weight, bits, 32).weight() - weight).unflatten(1, (-1, 32)).abs().amax(-1)
        assert (error <= limit).all()


def test_fewer_bits_are_worse_and_the_network_is_restored(run_path: Path) -> None:
    subject = open_subject(run_path)
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    results = measure(quantize, subject, Settings(methods=("rtn",), sequences=8, group=16))["results"]
    for name, tensor in subject.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    errors = [results["bits"][bits]["weight_error"] for bits in ("8", "4", "3", "2")]
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[-1] > 0.2
    moves = [abs(results["bits"][bits]["delta_loss"]) for bits in ("8", "4", "2")]
    assert moves[0] < moves[1] < moves[2]
    for score in results["bits"].values():
        assert score["delta_loss"] == pytest.approx(score["loss"] - results["full_precision"]["loss"])
        assert score["perplexity_ratio"] == pytest.approx(
            score["perplexity"] / results["full_precision"]["perplexity"]
        )
    tokens = cut(subject, 32, 8).tokens
    assert results["full_precision"]["loss"] == pytest.approx(subject.losses(tokens).double().mean().item())


def test_the_network_is_restored_after_a_failure(run_path: Path) -> None:
    subject = open_subject(run_path)
    matrices = weight_matrices(subject.blocks)
    before = {name: matrix.clone() for name, matrix in matrices.items()}

    quantized = {name: round_to_nearest(matrix, 2, 16) for name, matrix in matrices.items()}

    def fail() -> None:
        with replaced(matrices, quantized):
            assert not torch.equal(matrices["0.attention.query"], before["0.attention.query"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(matrices[name], before[name]) for name in before)


def test_every_linear_layer_of_the_blocks_and_nothing_else(run_path: Path) -> None:
    subject = open_subject(run_path)
    rounded_parameters = sum(matrix.numel() for matrix in weight_matrices(subject.blocks).values())
    linear = [module for module in subject.blocks.modules() if isinstance(module, nn.Linear)]
    assert rounded_parameters == sum(module.weight.numel() for module in linear)
    results = measure(quantize, subject, Settings(methods=("rtn",), sequences=2, bits=(8,)))["results"]
    assert results["rounded"]["matrices"] == len(linear) == 14
    total = sum(parameter.numel() for parameter in subject.network.parameters())
    assert results["rounded"]["share"] == pytest.approx(rounded_parameters / total)


EVERYTHING = Settings(
    methods=METHODS, bits=(8, 2), sequences=4, group=16, calibration=4, generations=2, offspring=4
)


@pytest.fixture(scope="module")
def everything(make_run: RunMaker) -> dict[str, dict]:
    """Results of every method on a normalised, an unnormalised and a windowed mechanism."""
    pytest.importorskip("hqq")
    found = {}
    for name in ("softmax", "softpick", "swat"):
        options = {"attention_options": {"swat": {"window": 8}}} if name == "swat" else {}
        subject = open_subject(make_run(f"all-{name}", attention=name, **options))
        before = {key: tensor.clone() for key, tensor in subject.network.state_dict().items()}
        tokens = cut(subject, 32, 2).tokens
        logits = subject.logits(tokens)
        found[name] = measure(quantize, subject, EVERYTHING)
        assert torch.equal(subject.logits(tokens), logits)
        for key, tensor in subject.network.state_dict().items():
            assert torch.equal(tensor, before[key]), (name, key)
    return found


def scores_of(results: dict) -> dict[str, dict]:
    """Every score of one subject, by a name of its own."""
    found = {f"{key} {bits}": results[key][bits] for key in ("bits", "hqq", "gptq") for bits in ("8", "2")}
    found |= {f"w8a8 {kind}": results["w8a8"][kind] for kind in ("dynamic", "static")}
    found |= {f"cache {bits}": results["cache"][bits] for bits in ("8", "4")}
    for bits in ("8", "4"):
        pair = results["probabilities"][bits]
        found |= {f"{kind} {bits}": pair[kind] for kind in ("plain", "corrected")}
    return found | {"search": results["search"]["3"], "uniform": results["search"]["3"]["uniform"]}


@pytest.mark.slow
def test_every_method_has_its_score_and_leaves_the_network_alone(everything: dict[str, dict]) -> None:
    for result in everything.values():
        full = result["results"]["full_precision"]
        for name, score in scores_of(result["results"]).items():
            assert score["delta_loss"] == pytest.approx(score["loss"] - full["loss"], abs=1e-9), name
            assert score["loss_ratio"] == pytest.approx(score["loss"] / full["loss"]), name
            assert score["interval"] > 0, name
            # Something was changed, and eight bits change little.
            assert score["loss"] != full["loss"], name
            if "8" in name:
                assert abs(score["delta_loss"]) < 0.01, name
        assert result["protocol"]["calibration"]["source"].endswith("training documents")
        assert result["protocol"]["calibration"]["windows"] == 4
        assert result["results"]["calibration"] == {"windows": 4, "tokens": 4 * 32}
        (size,) = (
            number
            for number in quantize.numbers(typed(quantize, result["results"]))
            if number.title == "calibrated on"
        )
        assert (size.value, size.unit) == (128, "tokens")


@pytest.mark.slow
def test_sizes_are_those_of_packed_bits(everything: dict[str, dict]) -> None:
    results = everything["softmax"]["results"]
    count = results["rounded"]["parameters"]
    # A group of 16 has a step of 32 bits and, where the zero is a code, a zero of as many bits as a code.
    assert results["bits"]["2"]["bits_per_weight"] == pytest.approx(2 + (32 + 2) / 16)
    assert results["gptq"]["8"]["bits_per_weight"] == pytest.approx(8 + (32 + 8) / 16)
    assert results["hqq"]["2"]["bits_per_weight"] == pytest.approx(2 + (32 + 32) / 16)
    saved = results["bits"]["8"]["bytes"] - results["bits"]["2"]["bytes"]
    packed = count * (results["bits"]["8"]["bits_per_weight"] - results["bits"]["2"]["bits_per_weight"]) / 8
    # What names and layouts take does not depend on the bits, but for the digits of places in the file.
    assert saved == pytest.approx(packed, abs=200)
    # Two layers of 2 heads, keys and values of 16 channels: codes, step and zero.
    assert results["cache"]["4"]["bytes_per_token"] == 2 * 2 * 2 * (16 * 4 + 32 + 4) / 8


def test_sizes_do_not_depend_on_the_dtype_in_memory(run_path: Path) -> None:
    one, other = (
        measure(
            quantize, open_subject(run_path, dtype=dtype), Settings(methods=("rtn",), bits=(4,), sequences=2)
        )
        for dtype in ("float32", "bfloat16")
    )
    file = checkpoint_path(run_path, 10) / WEIGHTS
    for result in (one["results"], other["results"]):
        assert result["full_precision"]["bytes"] == file.stat().st_size
        assert result["bits"]["4"]["bytes"] == one["results"]["bits"]["4"]["bytes"]


@pytest.mark.slow
def test_only_normalised_rows_sum_to_one(everything: dict[str, dict]) -> None:
    masses = {name: result["results"]["probabilities"]["4"]["mass"] for name, result in everything.items()}
    assert masses["softmax"] == pytest.approx(1, abs=1e-5)
    assert masses["softpick"] < 0.9
    assert masses["swat"] > 1.5


@pytest.mark.slow
def test_the_table_has_a_column_per_score(everything: dict[str, dict]) -> None:
    columns = quantize.row(typed(quantize, everything["softmax"]["results"]))
    # All but the uniform widths, which gptq has, too.
    assert len(columns) == 2 + len(scores_of(everything["softmax"]["results"])) - 1
    assert columns["+gptq 2"] == everything["softmax"]["results"]["gptq"]["2"]["delta_loss"]


def test_what_decides_the_numbers_is_in_the_protocol() -> None:
    names = {path.name for path in provenance.files({quantize.__name__})}
    assert {"gptq.py", "rounding.py", "search.py", "probabilities.py", "codes.py"} <= names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("gtpq",)}, "unknown method 'gtpq'; did you mean 'gptq'"),
        ({"attention_bits": (9,)}, "1 to 8 bits"),
        ({"calibration": 0}, "at least one of them"),
        ({"damping": -1.0}, "damping"),
        ({"methods": ("hqq",), "bits": (7,)}, "hqq knows 8, 6, 5, 4, 3, 2, 1 bits, not 7"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    pytest.importorskip("hqq")
    with pytest.raises(ModelError, match=message):
        Settings(**options)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install -e '\.\[eval\]'"):
        Settings(methods=("hqq",))
