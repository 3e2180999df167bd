"""Kernels are asked without being built, found by listing their folder, and built when a call wants them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attention
from attention import AttentionError
from attention.core.inputs import example
from attention.kernels import cpu, dispatch
from attention.kernels.kernel import obstacle, refusal

SOFTPICK = example(attention.get("softpick"))


@pytest.fixture
def compiler(tmp_path):
    """A compiler that says that it was called, and fails."""
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\ntouch "$0.called"\nexit 1\n')
    script.chmod(stat.S_IRWXU)
    return script


@pytest.mark.slow
def test_listing_compiles_nothing(compiler, tmp_path):
    cache = tmp_path / "cache"
    environment = {**os.environ, "CXX": str(compiler), "ATTENTION_ZOO_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "attention"], env=environment, capture_output=True, text=True, check=True
    )
    assert "kernels: cpu, tiled, dense" in done.stdout
    assert not Path(f"{compiler}.called").exists()
    assert not cache.exists()


def test_whoever_is_asked_looks_and_whoever_is_chosen_builds(monkeypatch):
    built = []
    monkeypatch.setattr(cpu, "_unready", lambda mechanism: built.append(mechanism.name) or "it broke")
    monkeypatch.setattr(cpu, "_unavailable", lambda mechanism: None)
    assert refusal(cpu.KERNEL, SOFTPICK) is None
    assert built == []
    assert obstacle(cpu.KERNEL, SOFTPICK) == "it broke"
    assert built == ["softpick"]
    assert dispatch.choose("auto", SOFTPICK).name == "tiled"
    with pytest.raises(AttentionError, match="'cpu' cannot run softpick here: it broke; use tiled, dense"):
        dispatch.choose("cpu", SOFTPICK)


def test_a_composite_is_built_by_its_parts(monkeypatch):
    built = []
    monkeypatch.setattr(
        cpu.Cpu, "build", lambda self, part: built.append((part.mechanism.name, part.value.dtype))
    )
    monkeypatch.setattr(cpu, "_unavailable", lambda mechanism: None)
    half = example(attention.get("weighted_softpick"), dtype=torch.bfloat16)
    assert obstacle(cpu.KERNEL, half) is None
    assert built == [("softpick", torch.float32)]


def test_kernels_are_tried_in_the_order_of_their_ranks():
    ranks = [kernel.rank for kernel in dispatch.KERNELS.values()]
    assert ranks == sorted(set(ranks))
    assert list(dispatch.KERNELS)[-1] == "dense"
