"""Packed codes, and runs whose weights are packed."""

import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models import ModelError, generate
from storage import (
    QuantizedMatrix,
    checkpoint_path,
    create_run,
    load_run,
    partial_path,
    publish,
    save_quantized,
    write_checksums,
)
from storage.codes import pack, read_state, unpack, write_state


def random_matrix(shape, bits, group, *, whole_zeros=True):
    generator = torch.Generator().manual_seed(bits)
    groups = shape[0], -(-shape[1] // group)
    codes = torch.randint(2**bits, shape, generator=generator).to(torch.uint8)
    zero = torch.randint(2**bits, groups, generator=generator).float()
    return QuantizedMatrix(
        codes,
        torch.rand(groups, generator=generator) / 2**bits,
        zero if whole_zeros else zero + 0.25,
        bits,
        group,
    )


def test_codes_by_hand():
    # 3 bits each, lowest first: 1 -> 100, 6 -> 011, 5 -> 101; then 100 011 10 | 1.
    assert pack(torch.tensor([1, 6, 5]), 3).tolist() == [0b01110001, 0b00000001]
    assert pack(torch.tensor([255, 1]), 8).tolist() == [255, 1]


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_codes_come_back_and_take_no_more_than_their_bits(bits, values):
    codes = torch.tensor(values) % 2**bits
    stream = pack(codes, bits)
    assert len(stream) == -(-len(values) * bits // 8)
    assert unpack(stream, bits, len(values)).tolist() == codes.tolist()


@pytest.mark.parametrize("whole_zeros", [True, False])
@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_a_file_of_packed_matrices(tmp_path, bits, whole_zeros):
    matrix = random_matrix((6, 10), bits, 4, whole_zeros=whole_zeros)
    other = torch.randn(3)
    write_state(tmp_path / "x.safetensors", {"a": torch.zeros(6, 10), "b": other}, {"a": matrix})
    state = read_state(tmp_path / "x.safetensors")
    assert state.keys() == {"a", "b"}
    assert torch.equal(state["a"], matrix.weight())
    assert torch.equal(state["b"], other)
    stored = load_file(tmp_path / "x.safetensors")
    assert sum(tensor.nbytes for name, tensor in stored.items() if name != "b") == matrix.nbytes
    codes, zeros = -(-6 * 10 * bits // 8), (-(-6 * 3 * bits // 8) if whole_zeros else 6 * 3 * 4)
    assert matrix.nbytes == codes + 6 * 3 * 4 + zeros


def test_the_formula_and_a_shorter_last_group():
    codes = torch.tensor([[0, 1, 2, 3, 3]], dtype=torch.uint8)
    matrix = QuantizedMatrix(codes, torch.tensor([[0.5, 2.0]]), torch.tensor([[1.0, 0.0]]), 2, 3)
    assert matrix.weight().tolist() == [[-0.5, 0.0, 0.5, 6.0, 6.0]]


@pytest.fixture
def run(tmp_path, build, tokenizer):
    """A run whose checkpoint is in float32."""
    model = build(vocab_size=300, attention="softmax*1,softpick*1", init_std=0.05, max_length=64).float()
    config = {"name": "whole", "model": asdict(model.plan)}
    path = create_run(tmp_path / "whole", config=config, tokenizer=tokenizer, train_length=32, data="d")
    partial = partial_path(path, 7)
    partial.mkdir(parents=True)
    save_file(model.state_dict(), partial / "model.safetensors")
    write_checksums(partial)
    publish(partial, checkpoint_path(path, 7))
    return load_run(path)


def packed(run, bits=3):
    return {
        name: random_matrix(tuple(tensor.shape), bits, 16)
        for name, tensor in run.model.state_dict().items()
        if tensor.dim() == 2 and name.startswith("layers")
    }


def test_a_quantized_run_loads_to_the_same_logits_and_generates(run, tmp_path, tokens):
    matrices = packed(run)
    file = save_quantized(run, tmp_path / "small", matrices, {"method": "test", "bits": 3})
    loaded = load_run(tmp_path / "small")
    assert (loaded.name, loaded.step, loaded.train_length) == ("small", 7, 32)
    assert loaded.checkpoint != run.checkpoint
    for name, matrix in matrices.items():
        run.model.get_parameter(name).data.copy_(matrix.weight())
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens), run.model(tokens))
    written = generate(loaded.model, tokens[:1, :8], 5, temperature=0)
    assert torch.equal(written, generate(run.model, tokens[:1, :8], 5, temperature=0))
    record = json.loads((tmp_path / "small" / "run.json").read_text())
    assert record["quantized"] == {
        "run": "whole",
        "step": 7,
        "checkpoint": run.checkpoint,
        "method": "test",
        "bits": 3,
    }
    assert file.stat().st_size < (checkpoint_path(run.path, 7) / "model.safetensors").stat().st_size * 0.6


def test_what_does_not_fit_is_refused(run, tmp_path):
    matrices = packed(run)
    name, matrix = next(iter(matrices.items()))
    with pytest.raises(ModelError, match=r"has no matrix layers\.9"):
        save_quantized(run, tmp_path / "a", {"layers.9": matrix}, {})
    with pytest.raises(ModelError, match=r"of shape \[3, 5\]"):
        save_quantized(run, tmp_path / "a", {name: random_matrix((3, 5), 2, 4)}, {})
    save_quantized(run, tmp_path / "a", matrices, {})
    with pytest.raises(ModelError, match="already exists"):
        save_quantized(run, tmp_path / "a", matrices, {})


def test_a_matrix_that_is_not_whole_is_refused(tmp_path):
    matrix = random_matrix((6, 10), 4, 4)
    write_state(tmp_path / "x.safetensors", {"a": torch.zeros(6, 10)}, {"a": matrix})
    state = load_file(tmp_path / "x.safetensors")
    layout = {"quantized": json.dumps({"a": {"shape": [6, 10], "bits": 4, "group": 4}})}
    for spoiled in (
        {name: tensor for name, tensor in state.items() if name != "a.step"},
        {**state, "a.codes": state["a.codes"][:-3]},
    ):
        save_file(spoiled, tmp_path / "y.safetensors", metadata=layout)
        with pytest.raises(ModelError, match=r"quantized matrix a of .* is not whole"):
            read_state(tmp_path / "y.safetensors")
