"""The folder that an export is: config, weights, code, tokenizer, card."""

from dataclasses import asdict
from pathlib import Path

from models import ModelError
from models.export.card import card
from models.export.tokenizer import exported, padding
from models.huggingface import AttentionZooConfig, AttentionZooForCausalLM
from storage import Run, load_run
from storage.checkpoint import publish, remove
from storage.run import TOKENIZER


def export(path: str | Path, folder: str | Path, step: int | None = None) -> Path:
    """Write a run as a folder that transformers opens; it appears whole or not at all.

    Args:
        path: of the run.
        folder: what to write, which must not exist.
        step: of the checkpoint; None: the latest.

    Raises:
        ModelError: no such run, a folder that exists, or a tokenizer that cannot be exported.
    """
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise ModelError(f"{folder} already exists; an export overwrites nothing")
    run = load_run(path, step)
    partial = folder.with_name(f".{folder.name}.partial")
    remove(partial)
    try:
        exported_model(run).save_pretrained(partial)
        exported(run.tokenizer, run.model.plan.max_length, ends_documents(run)).save_pretrained(partial)
        # For a run that begins with these weights (`train.init_from`).
        run.tokenizer.save(partial / TOKENIZER)
        (partial / "README.md").write_text(card(run, folder.name), encoding="utf-8")
        publish(partial, folder)
    finally:
        remove(partial)
    return folder


def exported_model(run: Run) -> AttentionZooForCausalLM:
    """The model of a run for transformers, with the same weights and what generation needs to know."""
    tokenizer, plan = run.tokenizer, run.model.plan
    ids = {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.bos if ends_documents(run) else None,
        "pad_token_id": padding(tokenizer),
    }
    model = AttentionZooForCausalLM(AttentionZooConfig(plan=asdict(plan), **ids))
    model.network.load_state_dict(run.model.state_dict())
    model.generation_config.update(
        **ids,
        # What has no piece is part of every softmax and never written.
        suppress_tokens=list(range(tokenizer.vocab_size, plan.vocab_size)) or None,
    )
    return model.eval()


def ends_documents(run: Run) -> bool:
    """Whether a run learned where documents end, so that what it writes ends with the token that begins the next."""
    return bool(run.config.get("train", {}).get("document_end"))
