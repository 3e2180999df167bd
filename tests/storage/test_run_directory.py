import json
from dataclasses import asdict
from importlib import metadata

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import InputError
from models import GPT, ModelError
from storage import checkpoint_path, create_run, load_run, partial_path, publish, write_checksums


def save_checkpoint(run, step, state):
    partial = partial_path(run, step)
    partial.mkdir(parents=True)
    save_file(state, partial / "model.safetensors")
    write_checksums(partial)
    publish(partial, checkpoint_path(run, step))


@pytest.fixture
def model(build):
    """Not too small for the tokenizer."""
    options = {"swat": {"window": 8}}
    return build(vocab_size=320, attention="softmax*1,swat*1", attention_options=options).float()


@pytest.fixture
def run(tmp_path, model, tokenizer):
    """A run directory with the checkpoints of steps 10 and 20; 20 holds the model."""
    config = {"name": "first", "model": asdict(model.plan)}
    path = create_run(
        tmp_path / "runs" / "first", config=config, tokenizer=tokenizer, train_length=32, data="d1"
    )
    save_checkpoint(path, 10, {name: tensor + 1 for name, tensor in model.state_dict().items()})
    save_checkpoint(path, 20, model.state_dict())
    return path


def test_a_run_comes_back_as_it_was_saved(run, model, tokenizer, tokens):
    loaded = load_run(run)
    assert (loaded.name, loaded.path, loaded.step, loaded.train_length) == ("first", run, 20, 32)
    assert loaded.model.plan == model.plan
    assert loaded.config["model"]["attention_options"] == {"swat": {"window": 8}}
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert not loaded.model.training
    assert len(loaded.checkpoint) == 64
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens), model(tokens))


def test_the_kernel_of_the_training_machine_does_not_matter(run):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("kernel: auto", "kernel: elsewhere"))
    loaded = load_run(run)
    assert (loaded.model.plan.kernel, loaded.config["model"]["kernel"]) == ("auto", "elsewhere")


def test_a_step_and_a_dtype_can_be_chosen(run):
    loaded = load_run(f"{run}/", step=10, dtype=torch.bfloat16)
    assert (loaded.step, loaded.name) == (10, "first")
    assert loaded.model.norm.weight.tolist() == [2.0] * 32
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.checkpoint != load_run(run).checkpoint


def test_the_record_says_where_a_run_came_from(run, tokenizer):
    record = json.loads((run / "run.json").read_text())
    assert (record["tokenizer"], record["data"], record["train_length"]) == (tokenizer.fingerprint, "d1", 32)
    assert record["versions"]["torch"] == metadata.version("torch")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_saved_from_a_wrapped_model_load(tmp_path, build, tokenizer, wrapper, tied):
    model = build(vocab_size=300, tie_embeddings=tied)
    path = create_run(
        tmp_path / "run",
        config={"model": asdict(model.plan)},
        tokenizer=tokenizer,
        train_length=32,
        data="d",
    )
    save_checkpoint(path, 5, {wrapper + name: tensor for name, tensor in model.state_dict().items()})
    loaded = load_run(path, dtype=torch.float64).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_accelerate_saves_what_load_run_reads(run, model):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    prepared = accelerator.prepare(model)
    partial = partial_path(run, 30)
    accelerator.save_state(str(partial))
    write_checksums(partial)
    publish(partial, checkpoint_path(run, 30))
    loaded = load_run(run).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in prepared.state_dict().items())


def test_a_run_is_never_overwritten(run, tokenizer):
    with pytest.raises(ModelError, match="first already exists; choose another name, or resume"):
        create_run(run, config={}, tokenizer=tokenizer, train_length=32, data="d1")


def test_an_interrupted_creation_leaves_no_run(tmp_path, tokenizer, model):
    leftover = tmp_path / ".run.partial"
    leftover.mkdir()
    path = create_run(
        tmp_path / "run",
        config={"model": asdict(model.plan)},
        tokenizer=tokenizer,
        train_length=32,
        data="d",
    )
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def damage_weights(run):
    file = checkpoint_path(run, 20) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def change_state(change):
    def apply(run):
        folder = checkpoint_path(run, 20)
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")
        write_checksums(folder)

    return apply


def edit_json(name, **changes):
    def apply(run):
        record = json.loads((run / name).read_text())
        (run / name).write_text(
            json.dumps({key: value for key, value in {**record, **changes}.items() if value})
        )

    return apply


def remove_checkpoints(run):
    for step in (10, 20):
        checkpoint_path(run, step).rename(run / str(step))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage_weights, "step-00000020 is damaged: model.safetensors does not match its checksum"),
        (lambda run: (checkpoint_path(run, 20) / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda run: (checkpoint_path(run, 20) / "checksums.json").unlink(), r"no readable checksums.json"),
        (remove_checkpoints, "has no checkpoint yet"),
        (lambda run: (run / "config.yaml").unlink(), r"config.yaml is missing"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), r"config.yaml is not readable YAML"),
        (lambda run: (run / "config.yaml").write_text("name: x"), r"config.yaml: no entry 'model'"),
        (lambda run: (run / "run.json").unlink(), r"cannot read .*run.json: No such file"),
        (edit_json("run.json", train_length=None), r"run.json: no entry 'train_length'"),
        (edit_json("run.json", tokenizer="0" * 64), "is not the tokenizer that run .* was trained with"),
        (lambda run: (run / "tokenizer.model").unlink(), r"cannot read the tokenizer .*tokenizer.model"),
        (lambda run: (run / "tokenizer.model").write_text("text"), "is not a SentencePiece model"),
        (change_state(lambda state: state.pop("norm.weight")), r"1 missing \(norm.weight"),
        (change_state(lambda state: state.update(extra=torch.ones(1))), r"1 unexpected \(extra"),
        (
            change_state(lambda state: state.update({"norm.weight": torch.ones(3)})),
            r"1 of another shape \(norm.weight",
        ),
    ],
)
def test_a_spoiled_run_is_refused(run, spoil, message):
    spoil(run)
    with pytest.raises(InputError, match=message) as refusal:
        load_run(run)
    assert "\n" not in str(refusal.value)


def test_another_runs_tokenizer_is_refused(run, other_tokenizer):
    other_tokenizer.save(run / "tokenizer.model")
    with pytest.raises(ModelError, match=r"is not the tokenizer that run .* was trained with"):
        load_run(run)


def test_a_file_that_is_no_safetensors_is_refused(run):
    folder = checkpoint_path(run, 20)
    (folder / "model.safetensors").write_text("text")
    write_checksums(folder)
    with pytest.raises(ModelError, match="cannot read the weights"):
        load_run(run)


def test_what_is_not_there_is_named_with_what_is(run):
    with pytest.raises(ModelError, match="did you mean 'first'"):
        load_run(run.parent / "frist")
    with pytest.raises(ModelError, match=r"no checkpoint of step 15 \(there are: 10, 20\)"):
        load_run(run, step=15)
    with pytest.raises(ModelError, match="cannot put the model on device nonsense"):
        load_run(run, device="nonsense")


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path, build, tokenizer):
    model = build(vocab_size=299)
    config = {"model": asdict(model.plan)}
    path = create_run(tmp_path / "run", config=config, tokenizer=tokenizer, train_length=32, data="d")
    save_checkpoint(path, 1, model.state_dict())
    with pytest.raises(ModelError, match="has 300 tokens, its model 299"):
        load_run(path)


def test_loading_draws_no_random_numbers(run):
    state = torch.get_rng_state()
    assert isinstance(load_run(run).model, GPT)
    assert torch.equal(state, torch.get_rng_state())
