"""Trained weights that a run may begin with: another run's, or a Hugging Face model's whose block is like ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import InputError
from common.hashing import files_hash
from data import DataError, Tokenizer
from data.tokenizer import load_foreign
from models.errors import ModelError
from storage import llama
from storage.run import TOKENIZER, load_run, read_run

TOKENIZERS = (TOKENIZER, "tokenizer.json")
"""The files of which a folder may have one or both."""


@dataclass(frozen=True)
class Source:
    """A trained model, whoever trained it.

    Attributes:
        path: of its folder.
        step: of the checkpoint, None for a model of Hugging Face.
        checkpoint: sha256 of its weights.
        model: the model section of a config that builds it.
        state: its tensors by name.
    """

    path: Path
    step: int | None
    checkpoint: str
    model: dict[str, Any]
    state: dict[str, Tensor]

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse another tokenizer than the model's own.

        Raises:
            ModelError: says where that one lies.
        """
        own: dict[str, Path] = {}
        for file in (self.path / name for name in TOKENIZERS):
            try:
                own[load_foreign(file).fingerprint] = file
            except DataError as error:
                if file.is_file() and file.name == TOKENIZERS[-1] and not own:
                    raise ModelError(str(error)) from error
        if not own:
            raise ModelError(f"{self.path} has no tokenizer ({' or '.join(TOKENIZERS)})")
        if tokenizer.fingerprint not in own:
            file = next(iter(own.values()))
            raise ModelError(
                f"{self.path} has another tokenizer; give this run the same: data.tokenizer.path={file}"
            )

    def describe(self) -> str:
        """Which weights these are."""
        step = "" if self.step is None else f", step {self.step}"
        return f"{self.path}{step}, {self.checkpoint[:12]}..."


def model_section(path: str | Path) -> dict[str, Any]:
    """The model section that builds what lies in a folder; no weights are read.

    Raises:
        InputError: neither a run nor a model that is read.
    """
    path = Path(path)
    return llama.section(path) if llama.is_model(path) else dict(read_run(path)[0]["model"])


def open_source(path: str | Path) -> Source:
    """The newest weights of a run, or those of a model of Hugging Face.

    Raises:
        ModelError: neither, damaged, or with what the block here does not have.
    """
    path = Path(path)
    try:
        section = model_section(path)
        if llama.is_model(path):
            weights = files_hash(llama.weight_files(path))
            state = llama.state(path, bool(section.get("tie_embeddings", True)))
            return Source(path, None, weights, section, state)
        run = load_run(path)
    except InputError as error:
        raise ModelError(str(error)) from error
    return Source(path, run.step, run.checkpoint, section, run.model.state_dict())
