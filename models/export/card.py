"""The model card of an export: how to open it, what it is, how it was trained, and what was measured."""

from collections.abc import Iterator, Mapping
from typing import Any

import attention
from common.reading import read_json
from eval import catalogue
from eval.report import comparison
from eval.report.collection import Measured, collect
from eval.subject import open_subject
from models.config import ModelConfig
from storage import Run
from storage.run import RECORD, Record

FACTS = {
    "steps": "steps",
    "batch_size": "sequences per step",
    "length": "tokens per sequence",
    "optimizer": "optimizer",
    "learning_rate": "learning rate",
    "schedule": "schedule",
    "warmup_steps": "warm-up steps",
    "weight_decay": "weight decay",
    "precision": "precision",
}
"""Keys of `train` in a run's config that a card names, in words."""


def card(run: Run, name: str) -> str:
    """README.md of an export called `name`: Markdown with the hub's metadata on top."""
    subject = open_subject(run.path, step=run.step)
    measured = collect([subject])[0]
    mechanisms = sorted({layer.mechanism.name for layer in run.model.plan.layers})
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            f"tags: [attention-zoo, {', '.join(mechanisms)}]",
            "---",
            "",
            f"# {name}",
            "",
            f"A decoder-only language model of {run.model.parameter_count():,} parameters whose layers attend by "
            f"`{run.model.plan.attention}`, trained with Attention Zoo. It computes with the code in this folder, "
            f"which needs transformers and `attention` {attention.__version__}; another "
            "`attn_implementation` is refused.",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)',
            f'model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)',
            'prompt = tokenizer("Once", return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))",
            "```",
            "",
            *_section("Model", _model(run)),
            *_section("Training", _training(run)),
            *_evaluation(measured),
        ]
    )


def _section(title: str, facts: Iterator[tuple[str, Any]]) -> list[str]:
    return [
        f"## {title}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in facts),
        "",
    ]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _model(run: Run) -> Iterator[tuple[str, Any]]:
    """What the plan says, beyond what a config says by itself."""
    usual, plan = vars(ModelConfig()), run.model.plan
    sizes = ("vocab_size", "n_layer", "n_head", "n_kv_head", "d_model", "d_ff", "max_length", "attention")
    for key in sizes:
        yield key, getattr(plan, key)
    for key, value in usual.items():
        if key not in (*sizes, "kernel", "preset") and getattr(plan, key) != value:
            yield key, getattr(plan, key)
    yield "tokenizer", f"{run.tokenizer.vocab_size} pieces, sha256 {run.tokenizer.fingerprint}"
    yield "weights", f"step {run.step}, sha256 {run.checkpoint} of the run's checkpoint"


def _training(run: Run) -> Iterator[tuple[str, Any]]:
    train: Mapping[str, Any] = run.config.get("train") or {}
    record = read_json(run.path / RECORD, Record)
    for key, words in FACTS.items():
        if train.get(key) is not None:
            yield words, train[key]
    data = run.config.get("data") or {}
    # The place of a text on the machine that trained says nothing to others.
    yield "text", f"corpus {data.get('corpus', 'not recorded')}, fingerprint {run.data}"
    if (seed := run.config.get("seed")) is not None:
        yield "seed", seed
    if origin := record.get("init_from"):
        yield "began with", f"the weights {origin.get('checkpoint')}"
    for what in ("quantized", "averaged"):
        if record.get(what):
            yield what, "yes"
    yield from record.get("versions", {}).items()


def _evaluation(run: Measured) -> Iterator[str]:
    """A line for each number that was measured on these weights, as the report of the run has it."""
    yield from ("## Evaluation", "")
    rows = [
        f"| {column.group} | {_cell(column.heading)} | {_cell(cell.text)}{' †' if cell.outdated else ''} |"
        for column in comparison.columns([run])
        for cell in comparison.cells(column, [run])
        if cell.value is not None
    ]
    if rows:
        yield from ("| | | |", "| --- | --- | ---: |", *rows, "")
        yield (
            "Measured by `python -m eval` on text that the model was not trained on. ± is one standard error, [ ] a "
            "95 % interval, † a number that would now be measured otherwise. One trained model says nothing certain of "
            "its mechanism."
        )
    absent = [name for name in run.missing if name in catalogue.names()]
    if absent:
        yield f"\nNot measured: {', '.join(absent)}."
    yield ""
