"""Mechanisms that follow the training: its progress, and noise that is a function of seed and layer."""

import torch

import attention
from models import GPT, ModelConfig


def network(mechanism: str, **options) -> GPT:
    torch.manual_seed(0)
    return GPT(
        ModelConfig(
            preset="nano",
            n_layer=2,
            n_head=2,
            d_model=32,
            attention=mechanism,
            attention_options={mechanism: options},
        )
    )


def test_noise_is_a_function_of_seed_and_layer_and_absent_in_evaluation():
    model = network("gumbel_softmax")
    tokens = torch.arange(24).view(2, 12)

    def logits(seed: int) -> torch.Tensor:
        model.advance(0.5, seed)
        return model(tokens)

    assert torch.equal(logits(7), logits(7))
    assert not torch.allclose(logits(7), logits(8))
    seeds = [int(layer.attention.mixer.seed) for layer in model.layers]
    assert len(set(seeds)) == 2
    model.eval()
    assert torch.equal(logits(7), logits(8))


def test_temperature_follows_the_progress():
    model = network("annealed_softmax", start=4.0, temperature=0.25)
    tokens = torch.arange(12)[None]
    mixer = model.layers[0].attention.mixer

    def scale() -> float:
        call = attention.Call(torch.ones(1, 1), None, {}, mixer.moment)
        return mixer.mechanism.scores(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), call).scale

    for progress, temperature in ((0.0, 4.0), (0.5, 1.0), (1.0, 0.25)):
        model.advance(progress, 0)
        assert abs(scale() - 0.5 / temperature) < 1e-12
    model.advance(0.0, 0)
    before = model(tokens)
    model.eval()
    assert abs(scale() - 2.0) < 1e-12
    assert not torch.allclose(model(tokens), before)


def test_softmax_is_sharpened_in_evaluation_only():
    tokens = torch.arange(12)[None]
    adaptive, plain = network("adaptive_softmax"), network("softmax")
    adaptive.load_state_dict(plain.state_dict())
    assert torch.allclose(adaptive(tokens), plain(tokens), atol=1e-6)
    adaptive.eval()
    assert not torch.allclose(adaptive(tokens), plain.eval()(tokens), atol=1e-6)
