"""Where the Triton kernels cannot run, and say so."""

import importlib.util

import pytest
import torch

import attention
from attention.core.inputs import example
from attention.kernels import triton
from attention.kernels.kernel import refusal

installed = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install triton==3.7.1)"
)


@installed
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_and_an_interpreter_it_refuses():
    assert (
        refusal(triton.KERNEL, example(attention.get("softmax"))) == "the tensors are on cpu; it needs a GPU"
    )


def test_without_triton_it_refuses(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    assert refusal(triton.KERNEL, example(attention.get("softmax"))) == "triton is not installed"
