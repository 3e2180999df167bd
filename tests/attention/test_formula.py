"""The traced functions against the methods they were traced from."""

from dataclasses import dataclass

import pytest
import torch

import attention
from attention.core.formula import UntraceableError, evaluate, formula_of
from attention.forms.pointwise import Pointwise
from tests.attention.conftest import label, pointwise_mechanisms

mechanisms = pytest.mark.parametrize("mechanism", pointwise_mechanisms(), ids=label)


@mechanisms
def test_a_traced_function_computes_what_its_method_computes(mechanism):
    generator = torch.Generator().manual_seed(0)
    for name, names in mechanism.form.traced.items():
        arguments = [torch.randn(200, generator=generator, dtype=torch.float64) * 3 for _ in names]
        if "count" in names:
            arguments[names.index("count")] = torch.arange(1.0, 201.0, dtype=torch.float64)
        for argument in arguments:
            argument[::7] = 0
        expected = getattr(mechanism, name)(*(argument.clone() for argument in arguments))
        found = evaluate(formula_of(mechanism)[name], *arguments)
        for one, other in zip(expected if isinstance(expected, tuple) else (expected,), found, strict=True):
            one = torch.as_tensor(one, dtype=torch.float64)
            assert torch.allclose(one.expand(200), other.double().expand(200), rtol=1e-12, atol=0), name


def test_programs_differ_where_options_do_and_only_there():
    keys = {power: formula_of(attention.get("lssar", power=power)).key for power in (2, 3, 15)}
    assert len(set(keys.values())) == 3
    assert formula_of(attention.get("swat", window=8)).key == formula_of(attention.get("swat")).key


class _Branching(Pointwise):
    name = "branching"

    def weights(self, score, visible):
        return score

    def weight(self, score):
        return score if score.sum() > 0 else -score

    def weight_derivative(self, score, weight):
        return weight


class _Unknown(_Branching):
    def weight(self, score):
        return torch.special.erfcx(score)


class _Overwriting(_Branching):
    def weight(self, score):
        score.exp_()
        return score * 2


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (_Branching(), "weight is more than arithmetic on its arguments"),
        (_Unknown(), "weight uses special_erfcx, which is not among the operations kernels know"),
        (_Overwriting(), "weight uses score after overwriting it in place"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(mechanism, message):
    with pytest.raises(UntraceableError, match=message):
        formula_of(mechanism)


@dataclass(frozen=True)
class _Coincident(Pointwise):
    """A constant that is also the place of a value among the steps."""

    name = "coincident"
    constant: float = 2.0

    def weights(self, score, visible):
        return self.weight(score)

    def weight(self, score):
        half = (score / self.constant).tanh()
        return (half * self.constant) + half * half

    def weight_derivative(self, score, weight):
        return weight


@pytest.mark.parametrize("constant", [0.0 + x for x in range(1, 8)])
def test_a_constant_is_no_place_of_a_value(constant):
    mechanism = _Coincident(constant)
    score = torch.linspace(-3, 3, 50, dtype=torch.float64)
    (found,) = evaluate(formula_of(mechanism)["weight"], score)
    assert torch.allclose(found, mechanism.weight(score), rtol=1e-12, atol=0)
