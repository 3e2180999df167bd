"""Where the Triton kernels cannot run, and say so."""

import importlib.util
import re

import pytest
import torch

import attention
from attention.core.inputs import example
from attention.forms import rowwise_forms
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


def test_a_form_without_a_file_is_refused_by_its_name(monkeypatch):
    monkeypatch.setattr(triton, "_refuses_machine", lambda device: None)
    monkeypatch.setattr(triton.forms, "HERE", triton.forms.HERE.parent)
    assert (
        refusal(triton.KERNEL, example(attention.get("lssar"))) == "it has no row functions for form TwoStage"
    )


def test_what_all_forms_share_names_none_of_them():
    folder = triton.forms.HERE
    names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert names
    assert set(names) <= set(rowwise_forms())
    for path in folder.parent.glob("*.py"):
        assert [name for name in names if re.search(rf"\b{name}\b", path.read_text())] == [], path
