"""Directories of Hugging Face models that are damaged, or made to do harm: one line, and nothing is run."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import InputError
from eval.subject import open_subject
from tests.eval.families import tiny

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")
WEIGHTS = "model.safetensors"
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({mark!r}).write_text("ran")
class Config(LlamaConfig): model_type = "evil"
class Model(LlamaForCausalLM): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.fixture(scope="session")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("hub") / "tiny"
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([path.read_text() for path in corpus.iterdir()], 384, special_tokens=["<s>"])
    tiny("llama").save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="<s>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "tiny")


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def config(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))

    return apply


def cut(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return apply


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


QUERY, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (weights(lambda state: state.pop(QUERY)), "1 missing (model.layers.0.self_attn.q_proj.weight)"),
        (weights(lambda state: state.update(odd=torch.zeros(3))), "1 unexpected (odd)"),
        (weights(lambda state: state.update({NORM: torch.ones(7)})), "model.norm.weight"),
        (weights(lambda state: state[NORM].fill_(torch.nan)), "model.norm.weight holds values that are not"),
        (weights(lambda state: state.clear()), "missing"),
        (cut(WEIGHTS), "cannot be opened as a causal language model"),
        (put(WEIGHTS, b""), "cannot be opened as a causal language model"),
        (config(num_hidden_layers=-1), "num_hidden_layers"),
        (config(num_hidden_layers=10**6), "num_hidden_layers"),
        (config(num_hidden_layers="2"), "num_hidden_layers"),
        (config(hidden_size=64), "another shape"),
        (config(vocab_size=True), "vocab_size"),
        (config(max_position_embeddings=None), "max_position_embeddings"),
        (config(model_type="nonesuch"), "cannot be opened"),
        (cut("config.json"), "is not readable JSON"),
        (put("config.json", b"[1]"), "must be a section of keys and values"),
        (put("config.json", b"\xff\xfe"), "is not UTF-8"),
        (put("config.json", b"[" * 100_000), "nested too deeply"),
        (cut("tokenizer.json"), "cannot be opened"),
        (put("tokenizer_config.json", b"5"), "must be a section"),
        (put("adapter_config.json", b"{}"), "is an adapter"),
    ],
)
def test_a_damaged_directory_is_refused_in_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(InputError) as refusal:
        open_subject(folder)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_tied_weights_are_not_missing(folder: Path) -> None:
    model = tiny("gpt2")
    model.save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / WEIGHTS)
    assert open_subject(folder).label == "gpt2 softmax"


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "ran")


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_malicious_checkpoint_is_not_run(folder: Path, tmp_path: Path, how: str) -> None:
    mark = tmp_path / "mark"
    (folder / WEIGHTS).unlink()
    if how == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save({NORM: Evil(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be opened as a causal language model") as refusal:
        open_subject(folder)
    assert "\n" not in str(refusal.value)
    assert not mark.exists()


@pytest.mark.parametrize("where", ["model", "tokenizer", "elsewhere"])
def test_code_of_a_directory_is_never_run_nor_asked_for(
    folder: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("somebody was asked"))
    if where == "tokenizer":
        file = folder / "tokenizer_config.json"
        values = json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}}
        file.write_text(json.dumps(values))
    else:
        home = "someone/evil--" if where == "elsewhere" else ""
        classes = {"AutoConfig": f"{home}evil.Config", "AutoModelForCausalLM": f"{home}evil.Model"}
        config(model_type="evil", auto_map=classes)(folder)
    with pytest.raises(InputError, match=r"asks for code of its own \(auto_map\), which is never run"):
        open_subject(folder)
    assert not mark.exists()
