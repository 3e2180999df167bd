"""The page on using the package in one's own model runs, in an empty folder; two processes train its module."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "library.md"

DISTRIBUTED = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from attention import Attention

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(Attention("ssmax", 4, 16))
torch.manual_seed(rank)
query, key, value = (torch.randn(2, 9, heads, 16) for heads in (4, 2, 2))
model(query, key, value).square().sum().backward()
gradient = model.module.learned["length_scale"].grad
both = [torch.zeros_like(gradient) for _ in range(2)]
dist.all_gather(both, gradient)
assert torch.equal(*both) and gradient.abs().max() > 0
dist.destroy_process_group()
"""


def test_the_page_runs_block_by_block(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 8
    names: dict = {"__name__": "page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number + 1} of {PAGE.name}", "exec"), names)
    assert names["out"].shape == names["query"].shape
    assert names["layer"].attention.learned["length_scale"].grad.abs().max() > 0
    assert "ssmax learns length_scale" in capsys.readouterr().out


@pytest.mark.slow
def test_it_is_imported_and_used_in_an_empty_folder(tmp_path):
    layer = "attention.Attention('softpick', 2, 8)"
    script = f"import attention, torch; q = torch.randn(1, 5, 2, 8); print({layer}(q, q, q).shape)"
    done = _python(["-c", script], tmp_path)
    assert "torch.Size([1, 5, 2, 8])" in done.stdout
    script = "import sys, attention; print('transformers' in sys.modules, attention.transformers.AUTO)"
    done = _python(["-c", script], tmp_path)
    assert done.stdout.split() == ["False", "zoo:auto"]


@pytest.mark.slow
def test_two_processes_train_what_it_learns(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    _python(launcher, tmp_path)


def _python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done
