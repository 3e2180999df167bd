"""Small untrained runs and Hugging Face models, and a subject whose attention a test writes down itself."""

import dataclasses
import importlib
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from data import DataConfig, TokenizerConfig, prepare
from eval import analyses, provenance
from eval.subjects.base import AttentionReport, HiddenReport, Places, Subject
from eval.subjects.coverage import Coverage
from models import GPT, AttentionCall, ModelConfig, resolve
from storage import checkpoint_path, create_run, partial_path, publish, write_checksums
from tests.kernels import own_cache

VOCABULARY = """the queen king speaks of night and gentle morning where shadow takes every crown from
Verona to Rome"""
WORDS = VOCABULARY.split()
TRAIN_LENGTH = 32


def prose(seed: int, words: int) -> str:
    """Random text with repetition, lines and punctuation."""
    chosen = random.Random(seed)
    lines = []
    while words > 0:
        size = chosen.randint(4, 9)
        lines.append(" ".join(chosen.choice(WORDS) for _ in range(size)) + chosen.choice(".,;?"))
        words -= size
    return "\n".join(lines)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(16):
        (folder / f"{index:02}.txt").write_text(prose(index, 260), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("cache")
    with own_cache(folder):
        yield


RunMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunMaker:
    """A function that writes a run of an untrained model, given its name and the fields of its config."""
    data = DataConfig(
        corpus="text", path=str(corpus), held_out=0.4, tokenizer=TokenizerConfig(vocab_size=320)
    )

    def make(name: str, *, folder: Path | None = None, init_std: float = 0.1, **model: Any) -> Path:
        shape = {"vocab_size": 320, "n_layer": 2, "n_head": 2, "d_model": 32, "d_ff": 48, "max_length": 128}
        path = (folder or tmp_path_factory.mktemp("runs")) / name
        return untrained_run(path, data, TRAIN_LENGTH, step=10, **{**shape, "init_std": init_std, **model})

    return make


def untrained_run(
    path: Path, data: DataConfig, train_length: int, *, step: int = 1, seed: int = 0, **model: Any
) -> Path:
    """A run of an untrained model of this shape, as large a vocabulary as the tokenizer's where none is given."""
    prepared = prepare(data)
    config = resolve(ModelConfig(**{"vocab_size": prepared.tokenizer.vocab_size, **model}))
    torch.manual_seed(seed)
    create_run(
        path,
        config={"name": path.name, "model": dataclasses.asdict(config), "data": dataclasses.asdict(data)},
        tokenizer=prepared.tokenizer,
        train_length=train_length,
        data=prepared.fingerprint,
    )
    add_checkpoint(path, step, GPT(config))
    return path


def add_checkpoint(path: Path, step: int, model: nn.Module) -> None:
    partial = partial_path(path, step)
    partial.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        partial / "model.safetensors",
    )
    write_checksums(partial)
    publish(partial, checkpoint_path(path, step))


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> Any:
    """A tokenizer of transformers with 384 pieces."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([path.read_text() for path in corpus.iterdir()], 384, special_tokens=["<s>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="<s>"
    )


@pytest.fixture
def prose_file(corpus: Path) -> str:
    return str(corpus / "00.txt")


@pytest.fixture(scope="session")
def run_path(make_run: RunMaker) -> Path:
    return make_run("plain")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources of the project, where a test may edit them."""
    for name in ("attention", "common", "data", "models", "storage", "eval"):
        without = shutil.ignore_patterns("*.pt", "__pycache__", "templates")
        shutil.copytree(provenance.ROOT / name, tmp_path / "copy" / name, ignore=without)
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def add_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """A function that adds an analysis to the project, given its name and its source, for one test."""
    folder = tmp_path / "analyses"
    folder.mkdir()
    monkeypatch.setattr(analyses, "__path__", [*analyses.__path__, str(folder)])
    added = []

    def add(name: str, source: str) -> None:
        (folder / f"{name}.py").write_text(source.lstrip())
        importlib.invalidate_caches()
        added.append(name)

    yield add
    for name in added:
        sys.modules.pop(f"eval.analyses.{name}", None)


@pytest.fixture
def own_tasks(tmp_path: Path) -> Path:
    """A folder with `mine.yaml`, a task for lm-eval of two questions."""
    questions = [
        {"question": "the queen", "choices": [" speaks", " zzz"], "answer": 0},
        {"question": "of night", "choices": [" qqq", " and"], "answer": 1},
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/questions.jsonl}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: answer\nmetric_list: [{metric: acc}]\n"
    )
    return folder


class Scripted(Subject):
    """A subject that reports the attention and residuals it was given, and knows 40 tokens of 8 letters."""

    def __init__(self, calls: Sequence[AttentionCall] = (), residuals: Sequence[Tensor] = ()) -> None:
        self.name, self.label, self.path, self.step = "scripted", "scripted", Path("scripted"), None
        self.checkpoint, self.train_length, self.max_length = "0" * 64, 8, None
        self.vocab_size, self.bos, self.eos, self.tokenizer_fingerprint = 40, 0, 0, "letters"
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.architecture, self.batch_tokens, self.results = "letters", 8192, Path("results")
        self.calls, self.residuals = calls, residuals
        self._attention: AttentionReport | None = None
        self._hidden: HiddenReport | None = None
        self.seen = 0

    def encode(self, text: str) -> list[int]:
        return [1 + ord(letter) % 39 for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "x" * len(ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return ["x"] * len(ids)

    def logits(self, tokens: Tensor, at: Places | None = None) -> Tensor:
        return torch.zeros(*(tokens.shape if at is None else at[0].shape), self.vocab_size)

    def states(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 4)

    @property
    def head(self) -> Tensor:
        return torch.zeros(self.vocab_size, 4)

    def read_out(self, states: Tensor) -> Tensor:
        return states @ self.head.mT

    def generate(
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        return []

    @property
    def blocks(self) -> nn.ModuleList:
        return nn.ModuleList()

    @property
    def coverage(self) -> Coverage:
        layers = sorted({call.layer for call in self.calls})
        return Coverage(layers, max(layers, default=-1) + 1)

    def observe(self, tokens: Tensor) -> None:
        """Report the rows of the script that belong to this batch."""
        rows = slice(self.seen, self.seen + len(tokens))
        self.seen += len(tokens)
        for call in self.calls:
            if self._attention is not None:
                parts = {name: getattr(call, name)[rows] for name in ("query", "key", "value", "output")}
                self._attention(dataclasses.replace(call, **parts))
        for layer, residual in enumerate(self.residuals, start=-1):
            if self._hidden is not None:
                self._hidden(layer, residual[rows])

    @contextmanager
    def trace(
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> Iterator[None]:
        self._attention, self._hidden, self.seen = attention, hidden, 0
        yield

    def _own_text(self) -> tuple[str, list[str]]:
        return "letters", ["abcdefghij" * 100]
