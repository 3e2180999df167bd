"""The benchmarks' commands at sizes that say nothing about speed: what they write, and what they refuse to time."""

import collections
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attention import get, timing
from attention.conformance import cases
from attention.core.masks import visibility
from attention.forms.chunked import Chunked
from attention.forms.composite import Mixture
from attention.kernels import dispatch, tiled, vendor
from benchmarks import (
    bench_attention,
    bench_checkpointing,
    bench_decode,
    bench_long,
    bench_train,
    bench_transformers,
    learn,
    measure,
)
from benchmarks.peers import PEERS, Llama, PlainGPT
from common.errors import InputError
from models import GPT, ModelConfig, resolve
from training.config import TrainConfig

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def wrong_kernel(monkeypatch):
    """A kernel that serves everything, a tenth too large."""

    class Wrong(tiled.Tiled):
        name = "wrong"

        def run(self, inputs, *, with_mass=False):
            out, log_mass = super().run(inputs, with_mass=with_mass)
            return Mixture(out * 1.1, log_mass)

    monkeypatch.setitem(dispatch.KERNELS, "wrong", Wrong())


def test_attention_writes_tables_figures_and_picture(tmp_path, capsys):
    sizes = ["--shapes", "1x512", "--heads", "2", "--head-dim", "16", "--rounds", "2"]
    chosen = ["--dtype", "float32", "--mechanisms", "softpick", "--kernels", "tiled"]
    bench_attention.main([*sizes, *chosen, "--write", str(tmp_path)])
    page = (tmp_path / "benchmarks/results/attention.md").read_text()
    assert page in capsys.readouterr().out
    assert "| softpick | tiled |" in page
    assert "| SDPA softmax | torch |" in page
    raw = json.loads((tmp_path / "benchmarks/results/attention.json").read_text())
    assert {"processor", "commit", "torch", "threads"} <= raw["machine"].keys()
    places = {(x["kernel"], x["passes"]) for x in raw["times"]}
    passes = ("forward", "forward + backward")
    assert places == {(k, p) for k in ("torch", "tiled", "dense") for p in passes}
    assert all(x["seconds"] > 0 and len(x["samples"]) == 2 for x in raw["times"])
    memory = {x["kernel"]: x["mebibytes"] for x in raw["memory"]}
    assert memory["dense"] > 2 * memory["tiled"]
    assert (tmp_path / "docs/images/speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_kernel_is_named_and_not_timed(wrong_kernel, capsys):
    sizes = ["--shapes", "1x32", "--heads", "2", "--head-dim", "16", "--rounds", "1", "--no-memory"]
    chosen = ["--dtype", "float32", "--mechanisms", "softmax", "--kernels", "wrong", "tiled"]
    bench_attention.main([*sizes, *chosen])
    page = capsys.readouterr().out
    assert page.count("| softmax | wrong | – |") == 2
    assert "- softmax by wrong: float32: FAILS" in page
    assert "softmax by tiled" not in page
    assert "| softmax | tiled | – |" not in page


def test_a_kernel_that_does_not_serve_a_mechanism_says_why(monkeypatch):
    monkeypatch.setitem(dispatch.KERNELS, "sdpa", vendor.SDPA)
    tensors = bench_attention.Tensors(bench_attention.Shape(1, 8, 2, 2, 16), torch.float32, CPU)
    place = (bench_attention.Candidate("softpick", "sdpa"), torch.float32, CPU)
    kernel, reason = bench_attention._kernel(tensors, *place)
    assert kernel == "sdpa"
    assert "computes softmax only" in reason


def test_a_mechanism_with_a_window_is_measured_with_it_where_it_matters():
    found = [str(x) for x in bench_attention.candidates(["softmax", "swat"], ["auto"], 1024)]
    assert found == ["SDPA softmax", "softmax", "swat", "swat, window 512"]
    assert [str(x) for x in bench_attention.candidates(["swat"], ["auto"], 512)] == ["SDPA softmax", "swat"]
    assert bench_attention.Candidate("swat", window=512).resolve() == replace(get("swat"), window=None)


@pytest.mark.parametrize("window", [None, 1, 7, 100])
def test_work_counts_visible_pairs(window):
    assert bench_attention.pairs(20, window) == int(visibility(20, 20, window=window).mask().sum())


def test_candidates_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST", 0)
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    monkeypatch.setattr(timing, "_seconds", lambda run, repeats, device: run() or 1.0)
    samples = timing.interleaved(runs, 3, CPU)
    assert order[6:] == list("abc") * 3
    assert samples == {name: [1.0] * 3 for name in "abc"}
    bars = []
    monkeypatch.setattr(measure, "progress", lambda items, what: bars.append((what, len(items))) or items)
    assert measure.in_turns(runs, 2, CPU) == {name: [1.0] * 2 for name in "abc"}
    assert bars == [("3 candidates in turns", 3), ("3 candidates in turns", 2)]


def test_every_benchmark_in_turns_shows_how_far_it_is():
    files = Path(measure.__file__).parent.glob("*.py")
    assert [file.name for file in files if "attention.timing" in file.read_text()] == ["measure.py"]


def uncompiled(model=None, **options):
    """In place of torch.compile, which libraries that a peer brings along use as a decorator."""
    return (lambda function: function) if model is None else model


def test_training_steps_are_compared_with_sdpa(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(dispatch.KERNELS, "sdpa", vendor.SDPA)
    monkeypatch.setattr(torch, "compile", uncompiled)
    sizes = [
        "--models",
        "nano",
        "--batch",
        "1",
        "--length",
        "16",
        "--steps",
        "1",
        "--precision",
        "bf16",
        "--emulated",
    ]
    bench_train.main([*sizes, "--mechanisms", "softmax", "--write", str(tmp_path)])
    page = capsys.readouterr().out
    assert "## nano, bf16, 1 x 16 tokens" in page
    baseline = next(line for line in page.splitlines() if line.startswith("| softmax, sdpa |"))
    assert baseline.split("|")[-4].strip() == "1.00"
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    peers = [row[-3].strip() for row in rows if row[1].strip().startswith(tuple(PEERS))]
    assert len(peers) == 2 * len(PEERS)
    assert max(peers) == "1.00"
    raw = json.loads((tmp_path / "benchmarks/results/train.json").read_text())
    peers = [f"{name}{how}" for name in PEERS for how in ("", ", torch.compile")]
    names = [*peers, "softmax, sdpa", "softmax, dense", "softmax, auto"]
    assert [x["candidate"] for x in raw["steps"]] == names
    assert all(x["seconds"] > 0 for x in raw["steps"])


@pytest.mark.parametrize(("name", "kernel"), [("softpick", "auto"), *((name, None) for name in PEERS)])
def test_a_training_step_learns(name, kernel):
    train = TrainConfig(batch_size=1, length=16, precision="fp32", learning_rate=1e-2)
    module = bench_train.build(bench_train.Candidate(name, kernel), ModelConfig(preset="nano"), train)
    step = bench_train.training_step(module, 1024, train, CPU, compiled=False)
    losses = [float(step()) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_peer_is_of_the_shape_of_the_model():
    plan = resolve(ModelConfig(preset="nano", tie_embeddings=False))
    ours = GPT(plan).parameter_count()
    assert sum(x.numel() for x in Llama(plan, 16).parameters()) == ours
    # Four square matrices and two of 4 d_model per block, one table; biases, norms and positions are little.
    matrices = (12 * plan.n_layer * plan.d_model + plan.vocab_size) * plan.d_model
    assert matrices < sum(x.numel() for x in PlainGPT(plan, 16).parameters()) < 1.02 * matrices


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_a_peer_sees_no_later_token(peer):
    plan = resolve(ModelConfig(preset="nano", init_std=0.2))
    torch.manual_seed(0)
    model, tokens = peer(plan, 16), torch.randint(1024, (1, 16))
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 1024
    targets = torch.full_like(tokens, -100)
    targets[:, :9] = tokens[:, 1:10]
    with torch.no_grad():
        assert torch.equal(model(tokens, targets), model(changed, targets))
        targets[:, 9] = 3
        assert not torch.equal(model(tokens, targets), model(changed, targets))


def test_checkpointing_has_a_row_for_each_way(tmp_path, capsys):
    sizes = ["--model", "nano", "--batch", "1", "--length", "16", "--steps", "1"]
    bench_checkpointing.main([*sizes, "--write", str(tmp_path)])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[1].strip() for row in rows] == ["none", "selective", "full"]
    kept = [float(row[2]) for row in rows]
    assert kept == sorted(kept, reverse=True)
    assert (tmp_path / "benchmarks/results/checkpointing.md").exists()


def test_emulated_products_are_not_timed(monkeypatch, capsys):
    monkeypatch.setattr(bench_train, "resolve_precision", lambda *_: "fp32")
    bench_train.main(["--models", "nano", "--precision", "bf16", "--mechanisms", "softmax"])
    shown = capsys.readouterr().out
    assert "Not timed: bf16" in shown
    assert "## nano" not in shown


def test_a_model_on_a_wrong_kernel_is_not_timed(monkeypatch):
    monkeypatch.setitem(dispatch.KERNELS, "sdpa", vendor.SDPA)
    monkeypatch.setattr(torch, "compile", uncompiled)
    monkeypatch.setattr(
        bench_train, "broken", lambda mechanism, *_: "is wrong" if mechanism.name == "softpick" else None
    )
    train = TrainConfig(batch_size=1, length=8, precision="fp32")
    chosen = bench_train.candidates(["softmax", "softpick"], compiled=False)
    timed = bench_train.time_model("nano", train, chosen, 1, CPU)
    assert [x.candidate for x in timed if x.seconds is None] == ["softpick, auto"]
    assert "not measured: is wrong" in bench_train.model_table(timed)


@pytest.fixture
def small_text(tmp_path, monkeypatch):
    """Runs of `learn` in a folder of their own, on a text of which frequencies tell something."""
    documents = "".join(json.dumps({"text": f"{'the king sees the fox ' * 9}{n}"}) + "\n" for n in range(60))
    (tmp_path / "text.jsonl").write_text(documents)
    model = {"n_layer": 1, "n_head": 2, "d_model": 32, "d_ff": 32, "max_length": 64}
    data = {"corpus": "jsonl", "path": str(tmp_path / "text.jsonl"), "tokenizer": {"vocab_size": 290}}
    train = {"batch_size": 4, "length": 32, "learning_rate": 3e-2, "precision": "fp32"}
    (tmp_path / "base.yaml").write_text(json.dumps({"model": model, "data": data, "train": train}))
    monkeypatch.setattr(learn, "CONFIG", str(tmp_path / "base.yaml"))
    monkeypatch.setenv("ATTENTION_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return documents


def test_learning_is_held_against_the_frequencies_of_tokens(small_text, tmp_path, capsys):
    assert learn.main(["--mechanisms", "softmax", "--steps", "20", "--write", "."]) == 0
    page = (tmp_path / "benchmarks/results/learn.md").read_text()
    assert page in capsys.readouterr().out
    raw = json.loads((tmp_path / "benchmarks/results/learn.json").read_text())
    (run,) = raw["runs"]
    assert run["after"] < raw["unigram"] < run["before"]
    assert f"| softmax | {run['before']:.3f} | {run['after']:.3f} | yes |" in page
    assert learn.main(["--mechanisms", "softmax", "--steps", "1"]) == 1
    assert "| **no** |" in capsys.readouterr().out


def test_the_unigram_model_is_that_of_the_training_text(small_text):
    prepared = learn.prepare(learn.configured("softmax", 1).data)
    tokens = {split: _tokens(prepared, split) for split in ("train", "valid")}
    seen = collections.Counter(tokens["train"])
    total = len(tokens["train"]) + prepared.tokenizer.vocab_size
    bits = -sum(math.log2((seen[token] + 1) / total) for token in tokens["valid"])
    size = sum(len(text.encode()) for text in prepared.valid_documents())
    assert learn.unigram(prepared) == pytest.approx(bits / size, rel=1e-3)


def _tokens(prepared, split):
    return [token for text in prepared.text.documents(split) for token in prepared.tokenizer.encode(text)]


def test_long_texts_are_compared_with_softmax_up_to_a_length(tmp_path, capsys):
    sizes = ["--lengths", "32", "128", "--exact", "64", "--heads", "2", "--head-dim", "8", "--rounds", "2"]
    bench_long.main([*sizes, "--write", str(tmp_path)])
    page = (tmp_path / "benchmarks/results/long.md").read_text()
    assert page in capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in page.splitlines() if "|" in line}
    assert rows["SDPA softmax"][1].strip() == "–"
    assert {"soft_lowrank", "soft_lowrank, global", "soft_lowrank, streaming", "simrf"} < rows.keys()
    assert {name.split(",")[0] for name in rows} > {x.name for x in cases() if x.form is Chunked}
    assert "x)" in rows["simrf"][0]
    assert "x)" not in rows["simrf"][1]
    raw = json.loads((tmp_path / "benchmarks/results/long.json").read_text())
    assert all(len(x["samples"]) == 2 for x in raw["times"])


def test_models_of_hugging_face_are_timed_by_part(tmp_path, capsys):
    bench_transformers.main(
        ["--lengths", "64", "--families", "gpt-oss", "--rounds", "1", "--write", str(tmp_path)]
    )
    page = (tmp_path / "benchmarks/results/transformers.md").read_text()
    assert page in capsys.readouterr().out
    for part in ("attention, sliding", "attention, full", "model"):
        assert f"| gpt-oss | {part} | 64 |" in page


def test_another_result_is_not_timed(monkeypatch):
    monkeypatch.setattr(bench_transformers, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="gpt-oss, attention, sliding, 64 tokens: outputs differ by"):
        bench_transformers.main(["--lengths", "64", "--families", "gpt-oss", "--rounds", "1"])


def test_writing_is_timed_beside_a_llama(tmp_path, capsys):
    sizes = ["--models", "nano", "--batches", "2", "--contexts", "8", "--new", "3", "--rounds", "1"]
    bench_decode.main([*sizes, "--mechanisms", "softpick", "--write", str(tmp_path)])
    page = (tmp_path / "benchmarks/results/decode.md").read_text()
    assert page in capsys.readouterr().out
    assert "| nano, batch of 2, prompts of 8 |" in page
    (peer,) = re.findall(r"\| transformers' Llama \| ([\d,]+) \|", page)
    ((speed, ratio),) = re.findall(r"\| softpick \| ([\d,]+) \(([\d.]+)x\) \|", page)
    assert float(ratio) == pytest.approx(_number(speed) / _number(peer), abs=0.05)


def _number(text):
    return float(text.replace(",", ""))
