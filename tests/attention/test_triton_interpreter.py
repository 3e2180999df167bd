"""The Triton kernels' numbers, from Triton's interpreter in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attention
from attention.core.inputs import example
from attention.kernels import triton

ROOT = Path(__file__).parents[2]
installed = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install triton==3.7.1)"
)


@installed
def test_every_mechanism_conforms_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/attention/triton_conformance.py",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]


@installed
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_and_an_interpreter_it_refuses():
    assert (
        triton.KERNEL.refuses(example(attention.get("softmax"))) == "the tensors are on cpu; it needs a GPU"
    )


def test_without_triton_it_refuses(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    assert triton.KERNEL.refuses(example(attention.get("softmax"))) == "triton is not installed"
