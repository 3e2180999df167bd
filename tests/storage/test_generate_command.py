import runpy
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from models import generate, sampling
from models.step import following
from storage import checkpoint_path, create_run, load_run, partial_path, publish, write_checksums

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, build, tokenizer):
    return saved(tmp_path / "run", build(vocab_size=300, init_std=0.05, max_length=64).float(), tokenizer)


def saved(path, model, tokenizer):
    config = {"model": asdict(model.plan)}
    path = create_run(path, config=config, tokenizer=tokenizer, train_length=32, data="d")
    partial = partial_path(path, 1)
    partial.mkdir(parents=True)
    save_file(model.state_dict(), partial / "model.safetensors")
    write_checksums(partial)
    publish(partial, checkpoint_path(path, 1))
    return path


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["generate", "--device", "cpu", *map(str, arguments)])
        try:
            runpy.run_module("models.generate", run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


def test_a_prompt_is_continued(command, run):
    code, text, errors = command(run, "--prompt", "To be", "--max-new-tokens", 12, "--temperature", 0)
    opened = load_run(run)
    prompt = torch.tensor([opened.tokenizer.encode("To be", bos=True)])
    tokens = generate(opened.model, prompt, 12, temperature=0, stop=opened.tokenizer.bos)[0]
    assert (code, errors) == (0, "")
    assert text == opened.tokenizer.decode(tokens) + "\n"
    assert text.startswith("To be")


def test_a_device_without_numbers_is_refused_in_one_line(command, run):
    code, text, errors = command(run, "--device", "meta")
    assert (code, text) == (2, "")
    assert errors.startswith("error: device 'meta' cannot be used: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("compiler", "wrong"),
    [
        ("no-such-compiler", "no-such-compiler was not found"),
        ("false", "false is none that runs"),
        ("/", "/ is none that runs"),
    ],
)
def test_a_machine_without_a_compiler_says_so_in_one_line(command, run, monkeypatch, compiler, wrong):
    monkeypatch.setenv("CXX", compiler)
    code, text, errors = command(run, "--compile")
    assert (code, text) == (2, "")
    assert errors.startswith(f"error: --compile needs a C++ compiler on a CPU, and {wrong}")
    assert errors.count("\n") == 1


def test_a_python_without_its_headers_says_so_in_one_line(command, run, monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
    code, text, errors = command(run, "--compile")
    assert (code, text) == (2, "")
    assert errors.startswith("error: --compile needs the headers of Python on a CPU, and ")
    assert errors.count("\n") == 1


def test_every_token_but_the_first_is_left_to_the_compiled_step(command, run, monkeypatch):
    plain = command(run, "--max-new-tokens", 12)
    met = []

    def compiled():
        return lambda *given: met.append(given) or following(*given)

    monkeypatch.setattr(sampling, "compiled", compiled)
    assert command(run, "--max-new-tokens", 12, "--compile") == plain
    assert {given[1].shape[1] for given in met} == {1}


def test_a_seed_writes_the_same_text(command, run):
    first = command(run, "--max-new-tokens", 30, "--top-k", 40, "--top-p", 0.9, "--seed", 1)
    assert first == command(run, "--max-new-tokens", 30, "--top-k", 40, "--top-p", 0.9, "--seed", 1)
    assert first != command(run, "--max-new-tokens", 30, "--top-k", 40, "--top-p", 0.9, "--seed", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", -1, "--max-new-tokens", 5], "temperature must be 0"),
        (["--max-new-tokens", 64], "exceed max_length 64"),
        (["--step", 7], "no checkpoint of step 7"),
        (["--top-p", 2, "--max-new-tokens", 5], "top_p must be above 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, run, arguments, message):
    code, text, errors = command(run, *arguments)
    assert (code, text) == (2, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_the_text_ends_where_the_model_ends_the_document(command, run, monkeypatch):
    from models import choice

    opened = load_run(run)
    bos, (first, second) = opened.tokenizer.bos, opened.tokenizer.encode("be")[:1] * 2
    drawn = iter([first, second, bos, first])
    monkeypatch.setattr(
        choice, "multinomial", lambda *_, **__: torch.tensor([[next(drawn)]], dtype=torch.long)
    )
    code, text, _ = command(run, "--prompt", "To be", "--max-new-tokens", 20)
    assert (code, text) == (0, "To be" + 2 * opened.tokenizer.decode([first]) + "\n")


def test_a_padded_vocabulary_writes_text(command, tmp_path, build, tokenizer):
    model = build(vocab_size=448, init_std=0.05, max_length=256, tie_embeddings=False).float()
    model.head.weight.data[tokenizer.vocab_size :] *= 100
    path = saved(tmp_path / "padded", model, tokenizer)
    assert load_run(path).model.pieces == tokenizer.vocab_size == 300
    for seed in range(3):
        code, text, errors = command(path, "--max-new-tokens", 200, "--seed", seed)
        assert (code, errors) == (0, ""), errors
        assert len(text) > 1


def test_a_prompt_is_read_as_utf8_or_refused(command, run):
    # What Python makes of arguments in a locale that is not UTF-8.
    escaped = "né".encode().decode("ascii", "surrogateescape")
    code, text, _ = command(run, "--prompt", escaped, "--max-new-tokens", 5, "--temperature", 0)
    assert code == 0
    assert text.startswith("né")
    code, text, errors = command(run, "--prompt", "n\udce9", "--max-new-tokens", 5)
    assert (code, text) == (2, "")
    assert errors.startswith("error: --prompt 'n\\udce9' is not UTF-8 text")
    assert errors.count("\n") == 1


def test_a_missing_run_is_named(command, tmp_path):
    code, _, errors = command(tmp_path / "none")
    assert code == 2
    assert "no run at" in errors
