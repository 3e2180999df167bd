import pytest
import torch

from models import ModelError, generate, left_pad, stream
from models.choice import Choice
from models.sampling import readable

LOGITS = torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log()


def chosen(**choice):
    return Choice(**choice).distribution(LOGITS)[0].tolist()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, [0.1, 0.4, 0.3, 0.2]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 9 / 30, 4 / 30]),
        ({"temperature": 0}, [0, 1, 0, 0]),
        ({"temperature": 1e-300}, [0, 1, 0, 0]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 3 / 7, 0]),
        ({"top_k": 4}, [0.1, 0.4, 0.3, 0.2]),
        ({"top_p": 0.01}, [0, 1, 0, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.41}, [0, 4 / 7, 3 / 7, 0]),
        ({"top_p": 0.75}, [0, 4 / 9, 3 / 9, 2 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.3, 0.2]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 3 / 7, 0]),
        ({"temperature": 0.5, "top_p": 0.5}, [0, 1, 0, 0]),
        ({"min_p": 0.0}, [0.1, 0.4, 0.3, 0.2]),
        ({"min_p": 0.4}, [0, 4 / 9, 3 / 9, 2 / 9]),
        ({"min_p": 0.6}, [0, 4 / 7, 3 / 7, 0]),
        ({"min_p": 1.0}, [0, 1, 0, 0]),
        ({"min_p": 0.4, "temperature": 0.5}, [0, 16 / 25, 9 / 25, 0]),
        ({"min_p": 0.4, "top_k": 2}, [0, 4 / 7, 3 / 7, 0]),
        ({"min_p": 0.4, "top_p": 0.7}, [0, 4 / 7, 3 / 7, 0]),
        # The logits' standard deviation is 0.522: 0.55 and 1.33 of it below the largest lie the next two.
        ({"top_n_sigma": 0.0}, [0, 1, 0, 0]),
        ({"top_n_sigma": 0.6}, [0, 4 / 7, 3 / 7, 0]),
        ({"top_n_sigma": 1.4}, [0, 4 / 9, 3 / 9, 2 / 9]),
        ({"top_n_sigma": 1.4, "temperature": 0.5}, [0, 16 / 29, 9 / 29, 4 / 29]),
        ({"top_n_sigma": 3.0}, [0.1, 0.4, 0.3, 0.2]),
    ],
)
def test_the_distribution_is_cut_as_asked(choice, expected):
    assert chosen(**choice) == pytest.approx(expected, abs=1e-6)


def test_ties_go_to_the_lower_id():
    assert Choice(top_k=2).distribution(torch.zeros(1, 4))[0].tolist() == [0.5, 0.5, 0, 0]
    assert Choice(temperature=0).distribution(torch.zeros(1, 4))[0].tolist() == [1, 0, 0, 0]
    assert Choice(top_n_sigma=0).distribution(torch.zeros(1, 4))[0].tolist() == [0.25] * 4


@pytest.mark.parametrize("top_n_sigma", [0.0, 0.5, 1.0, 2.5])
def test_top_n_sigma_keeps_the_same_tokens_at_every_temperature(top_n_sigma):
    logits = 3 * torch.randn(5, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = logits.sum(-1, keepdim=True) / 200
    sigma = (((logits - mean) ** 2).sum(-1, keepdim=True) / 200).sqrt()
    kept = logits >= logits.max(-1, keepdim=True).values - top_n_sigma * sigma
    for temperature in (0.7, 1.0, 4.0):
        expected = torch.where(kept, (logits / temperature).exp(), 0)
        found = Choice(temperature, top_n_sigma=top_n_sigma).distribution(logits)
        torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
    assert kept.sum(-1).min() >= 1


@pytest.mark.slow
@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_min_p_is_that_of_transformers(min_p, temperature):
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = 3 * torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(5, 1, dtype=torch.long)
    warmed = warpers.TemperatureLogitsWarper(temperature)(tokens, logits)
    expected = warpers.MinPLogitsWarper(min_p)(tokens, warmed).softmax(-1)
    found = Choice(temperature, min_p=min_p).distribution(logits)
    torch.testing.assert_close(found.float(), expected)


@pytest.mark.slow
def test_draws_follow_the_models_distribution(build):
    model = build(init_std=0.1)
    prompt = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        expected = model(prompt)[0, -1].softmax(-1)
    drawn = generate(model, prompt.expand(20_000, -1), 1, seed=3)[:, -1]
    observed = torch.bincount(drawn, minlength=64) / 20_000
    assert (observed - expected).abs().max() < 0.015


def test_greedy_is_the_argmax_of_the_full_forward(build, tokens):
    model = build(window="none*1,7*1")
    text = generate(model, tokens, 15, temperature=0)
    with torch.no_grad():
        assert torch.equal(text[:, 40:], model(text)[:, 39:-1].argmax(-1))
    assert torch.equal(text[:, :40], tokens)


def test_the_head_reads_the_last_position_of_a_prompt_alone(build, tokens, monkeypatch):
    model = build()
    read, logits = [], model.logits
    monkeypatch.setattr(model, "logits", lambda x: read.append(x.shape) or logits(x))
    generate(model, tokens, 3, temperature=0.0)
    assert read == [(len(tokens), model.plan.d_model)] * 3


def test_a_seed_reproduces_the_text(build, tokens):
    model = build(init_std=0.05)
    first = generate(model, tokens, 12, seed=1)
    assert torch.equal(first, generate(model, tokens, 12, seed=1))
    assert not torch.equal(first, generate(model, tokens, 12, seed=2))
    state = torch.get_rng_state()
    generate(model, tokens, 1)
    assert torch.equal(state, torch.get_rng_state()), "the global random state is left alone"


def test_prompts_of_different_lengths_in_one_batch(build):
    model = build(window="none*1,7*1")
    prompts = [[1, 2, 3], [4] * 20, [9]]
    tokens, documents = left_pad(prompts)
    together = generate(model, tokens, 10, temperature=0, documents=documents)
    for row, prompt in zip(together, prompts, strict=True):
        alone = generate(model, torch.tensor([prompt]), 10, temperature=0)
        assert row[20 - len(prompt) :].tolist() == alone[0].tolist()


def test_a_stopped_row_repeats_the_stop_token_until_all_have_stopped(build, tokens):
    model = build()
    free = generate(model, tokens, 10, temperature=0)[:, 40:]
    stop = int(free[0, 2])
    text = generate(model, tokens, 10, temperature=0, stop=stop)[:, 40:]
    assert text[0].tolist() == free[0, :3].tolist() + [stop] * (text.shape[1] - 3)
    alone = generate(model, tokens[:1], 10, temperature=0, stop=stop)
    assert alone.shape[1] == 40 + free[0].tolist().index(stop) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", [{}, {"temperature": 0}, {"temperature": 50.0}, {"top_k": 48}, {"top_p": 1.0}, {"top_k": 1}]
)
def test_an_id_without_a_piece_is_never_drawn(build, tokens, choice):
    model = build(tie_embeddings=False)
    model.pieces = 48
    # The padding of the head would win every draw.
    with torch.no_grad():
        model.head.weight[48:] = 40 * model.head.weight[:16]
    text = generate(model, tokens % 48, 60, **choice)[:, 40:]
    assert int(text.max()) < 48
    model.pieces = 64
    assert int(generate(model, tokens % 48, 60, **choice).max()) >= 48


def test_the_likelihood_of_text_counts_all_of_the_head(build, tokens):
    model = build()
    before = model(tokens % 48, targets=tokens % 48)
    model.pieces = 48
    assert torch.equal(model(tokens % 48, targets=tokens % 48), before)


def test_tokens_are_yielded_as_they_are_drawn(build, tokens):
    steps = stream(build(), tokens, 5, seed=4)
    assert next(steps).shape == (2,)
    assert len(list(steps)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 473}, "a prompt of 40 tokens and 473 new ones exceed max_length 512"),
        ({"temperature": -0.1}, "temperature must be 0 .greedy. or a positive number"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": 10**400}, "temperature must be"),
        ({"temperature": None}, "temperature must be"),
        ({"temperature": "1"}, "temperature must be a number, got '1'"),
        ({"top_k": 2.0}, "top_k must be a whole number, got 2.0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, got 2.5"),
        ({"stop": True}, "stop must be a whole number, got True"),
        ({"top_k": 0}, "top_k must be between 1 and the vocabulary's 64"),
        ({"top_k": 65}, "top_k must be between"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.1}, "top_p must be above 0"),
        ({"min_p": -0.1}, "min_p must be between 0 and 1"),
        ({"min_p": float("nan")}, "min_p must be between"),
        ({"top_n_sigma": -1.0}, "top_n_sigma must be 0 or a positive number"),
        ({"top_n_sigma": float("inf")}, "top_n_sigma must be 0"),
        ({"seed": -1}, "seed must be in"),
        ({"stop": 64}, "stop must be a token id"),
        ({"tokens": torch.zeros(1, 0, dtype=torch.long)}, "at least one token"),
        ({"tokens": torch.tensor([[64]])}, "outside the vocabulary"),
        ({"tokens": torch.tensor([[1, 2]]), "documents": torch.tensor([[0, -1]])}, "end with a token"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_computed(build, tokens, changes, message):
    arguments = {"tokens": tokens, "max_new_tokens": 5, **changes}
    with pytest.raises(ModelError, match=message):
        stream(build(), **arguments)


def test_prompts_must_not_be_empty():
    for prompts in ([], [[1], []]):
        with pytest.raises(ModelError, match="at least one token"):
            left_pad(prompts)


def test_a_diverged_model_is_named(build, tokens):
    model = build()
    model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        generate(model, tokens, 1)


def test_text_appears_character_by_character_even_when_a_character_has_several_tokens():
    text = "né ☕"
    tokens = list(text.encode())

    def decode(ids):
        return bytes(ids).decode(errors="replace")

    shown = list(readable(decode, tokens[:1], iter(tokens[1:])))
    assert shown == ["n", "é", " ", "☕", ""]
    assert "".join(readable(decode, tokens[:1], tokens[1:-1])) == "né \ufffd", (
        "an unfinished end is shown, too"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
@pytest.mark.parametrize(("attention", "graphs"), [("softpick*1,swat*1", 6), ("simrf", 12)])
def test_a_compiled_step_draws_the_same_tokens(build, attention, graphs):
    model = build(attention=attention, window=None if attention == "simrf" else "none*1,6*1").float()
    tokens, documents = left_pad([[1, 2, 3], [4, 5, 6, 7, 8]])
    drawn = generate(model, tokens, 30, documents=documents)
    torch._dynamo.utils.counters.clear()
    compiled = generate(model, tokens, 30, documents=documents, compile_step=True)
    assert torch.equal(compiled, drawn)
    # A layer's state breaks the step in parts; a window's buffer that is full is compiled once more.
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs
