"""The log mass of a row, and its gradient, are those of the formula."""

import pytest
import torch

from attention.core.call import CallSpec
from attention.core.form import rowwise
from attention.core.inputs import prepare
from attention.kernels import dense, dispatch
from tests.attention.conftest import every_mechanism, label, make

MASSIVE = [mechanism for mechanism in every_mechanism() if rowwise(mechanism) and mechanism.form.has_mass]


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
@pytest.mark.parametrize("mechanism", MASSIVE, ids=label)
def test_the_log_mass_has_the_gradient_of_its_differences(mechanism, kernel):
    inputs = make(batch=1, queries=4, heads=2, key_heads=1, head_dim=3, seed=5)
    params = {name: value.double() for name, value in mechanism.initial_values(2, 3).items()}

    def log_mass(query, key):
        call = prepare(query, key, inputs.value, mechanism, CallSpec(params=params))
        mass = dispatch.KERNELS[kernel].run(call, with_mass=True).log_mass
        # A row without mass has the pivot, and no gradient.
        return mass * (dense.weights(call).sum(-1) > 0).transpose(1, 2)

    assert torch.autograd.gradcheck(log_mass, (inputs.query, inputs.key), eps=1e-7, atol=1e-5)
