import pytest
import torch

import attention
from attention.forms.chunked import Chunked
from models import ModelConfig, ModelError
from models.gpt import GPT
from models.loss import token_losses

MECHANISMS = attention.names()
LINE = torch.zeros(1, 5, dtype=torch.long)
PATTERNS = [*MECHANISMS, "softmax*1,swat*1"]


def patterned(build, pattern, **changes):
    """A tiny model of a mechanism; every second layer has a window shorter than the text.

    A mechanism with a state takes no window, and need not be a function of distance alone, so it gets no rotations.
    """
    if attention.get(pattern.split("*")[0]).form is Chunked:
        return build(attention=pattern, position="none", **changes)
    return build(attention=pattern, window="none*1,7*1", **changes)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_head": 4}, {"n_kv_head": 1}, {"mlp": "gelu"}, {"position": "none"}, {"qk_norm": True}],
    ids=str,
)
def test_logits_have_the_shape_of_the_vocabulary_and_every_parameter_learns(build, tokens, changes, tied):
    model = build(**changes, tie_embeddings=tied)
    assert model(tokens).shape == (2, 40, 64)
    model(tokens, targets=tokens).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_parameter_learns_with_every_mechanism(build, tokens, mechanism):
    model = patterned(build, mechanism)
    model(tokens, targets=tokens).sum().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_later_token_never_changes_an_earlier_output(build, tokens, pattern, dtype):
    model = patterned(build, pattern).to(dtype)
    with torch.no_grad():
        before = model(tokens)
        for place in (1, 17, 39):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % 64
            after = model(changed)
            assert torch.equal(after[:, :place], before[:, :place])
            assert not torch.equal(after[:, place], before[:, place])


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_documents_packed_together_are_as_if_alone(build, tokens, pattern):
    model = patterned(build, pattern)
    lengths = [1, 23, 16]
    documents = torch.repeat_interleave(torch.tensor([3, 0, 3]), torch.tensor(lengths)).expand(2, -1)
    with torch.no_grad():
        packed = model(tokens, documents=documents)
        alone = torch.cat([model(part) for part in tokens.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_matter(build, tokens, pattern, side):
    model = patterned(build, pattern)
    padding = (9, 0) if side == "left" else (0, 9)
    padded = torch.nn.functional.pad(tokens, padding, value=5)
    documents = torch.nn.functional.pad(torch.zeros_like(tokens), padding, value=-1)
    with torch.no_grad():
        logits = model(padded, documents=documents)
        torch.testing.assert_close(logits[:, documents[0] == 0], model(tokens), rtol=0, atol=1e-9)
    assert logits.isfinite().all()


def test_each_layer_attends_as_the_pattern_says(build):
    model = build(n_layer=4, attention="softmax*1,swat*3", window="none*2,16*2")
    mixers = [layer.attention.mixer for layer in model.layers]
    assert [mixer.mechanism.name for mixer in mixers] == ["softmax", "swat", "swat", "swat"]
    assert [mixer.window for mixer in mixers][2:] == [16, 16]


def test_a_window_limits_what_the_model_sees(build, tokens):
    model = build(window="5")
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 64
    reach = 2 * (5 - 1)
    with torch.no_grad():
        difference = (model(changed) - model(tokens)).abs().amax((0, 2))
    assert difference[reach] > 0
    assert difference[reach + 1 :].max() == 0


def test_rope_sees_distance_alone(build, tokens):
    model = build()
    cut = build(position="none")
    with torch.no_grad():
        # Without positions a causal model cannot tell the order of two earlier tokens in its first layer.
        assert not torch.allclose(model(tokens[:, [1, 0, 2]])[:, 2], model(tokens[:, [0, 1, 2]])[:, 2])
        single = build(position="none", n_layer=1)
        torch.testing.assert_close(single(tokens[:, [1, 0, 2]])[:, 2], single(tokens[:, [0, 1, 2]])[:, 2])
    assert cut.plan.position == "none"


def test_initialisation_scales_the_projections_into_the_residual_stream():
    torch.manual_seed(0)
    model = GPT(ModelConfig(preset="nano", n_layer=8, init_std=0.05, tie_embeddings=False))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == 1).all()
        else:
            residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
            assert parameter.std().item() == pytest.approx(0.05 / (4 if residual else 1), rel=0.03), name


def test_losses_are_cross_entropies_and_ignored_targets_count_nothing(build, tokens):
    model = build().float()
    targets = tokens.roll(-1, 1).clone()
    targets[:, -3:] = -100
    losses = model(tokens, targets=targets)
    expected = -model(tokens).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    assert losses.dtype == torch.float32
    assert losses.shape == tokens.shape
    assert (losses[:, -3:] == 0).all()
    torch.testing.assert_close(losses[:, :-3], expected[:, :-3])


def test_losses_in_parts_equal_losses_at_once(monkeypatch, tokens):
    torch.manual_seed(0)
    hidden = torch.randn(2, 40, 16, requires_grad=True)
    head = torch.nn.Linear(16, 64, bias=False)
    weight = torch.rand(2, 40)

    def outcome():
        losses = token_losses(hidden, tokens, head, 64)
        return losses, *torch.autograd.grad((losses * weight).sum(), [hidden, head.weight])

    whole = outcome()
    monkeypatch.setattr("models.loss._LARGEST", 7 * 64)
    for part, expected in zip(outcome(), whole, strict=True):
        torch.testing.assert_close(part, expected)
    # Without gradients parts are smaller.
    rows = []
    head.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    monkeypatch.setattr("models.loss._CACHED", 5 * 64)
    with torch.no_grad():
        torch.testing.assert_close(token_losses(hidden, tokens, head, 64), whole[0])
    assert max(rows) == 5


def test_autocast_leaves_the_residual_stream_and_the_loss_in_float32(build, tokens):
    model = build().float()
    seen = []
    model.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(tokens, targets=tokens)
        assert model(tokens).dtype == torch.bfloat16
    assert seen == [torch.float32] * 2
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, model(tokens, targets=tokens), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_losses_are_float32_whatever_the_model(build, tokens, dtype):
    model = build().to(dtype)
    with torch.no_grad():
        losses, logits = model(tokens, targets=tokens), model(tokens)
    assert (losses.dtype, logits.dtype) == (torch.float32, dtype)
    exact = -logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(losses, exact)


def test_tied_weights_are_one_tensor(build):
    assert "head.weight" not in build().state_dict()
    assert "head.weight" in build(tie_embeddings=False).state_dict()


def test_flops_count_windows_and_causality(build):
    model = build(n_layer=2, window="none*1,4*1")
    # Per layer query and output 32 x 32, key and value 32 x 16, three times 32 x 48; the tied head 64 x 32.
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 64 * 32
    seen = sum(range(1, 11)) / 10 + sum(min(i, 4) for i in range(1, 11)) / 10
    assert model.flops_per_token(10) == pytest.approx(6 * weights + 12 * 32 * seen)
    assert build(tie_embeddings=False).flops_per_token(10) == build().flops_per_token(10)


def test_parameters_are_counted_once(build):
    assert build(tie_embeddings=False).parameter_count() - build().parameter_count() == 64 * 32


def test_memory_grows_with_length_not_with_its_square(build):
    """No tensor that autograd keeps, and none that the forward pass makes, may be length x length."""
    length = 2048
    model = build(n_layer=1, n_head=2, n_kv_head=1, max_length=length).float()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    with Watch():
        model(torch.zeros(1, length, dtype=torch.long)).sum().backward()
    assert 0 < largest < length * length


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model(torch.zeros(1, 513, dtype=torch.long)), "513 positions exceed max_length 512"),
        (lambda model: model(torch.zeros(5, dtype=torch.long)), "tokens must be integers"),
        (lambda model: model(torch.zeros(1, 5)), "tokens must be integers"),
        (lambda model: model(torch.zeros(1, 0, dtype=torch.long)), "tokens must be integers"),
        (
            lambda model: model(LINE, targets=LINE[:, :4]),
            r"targets must have the shape of tokens \[1, 5\], got \[1, 4\]",
        ),
        (lambda model: model(LINE, documents=LINE[0]), "documents must have the shape"),
    ],
)
def test_a_wrong_call_is_refused(build, call, message):
    with pytest.raises(ModelError, match=message):
        call(build())


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_without_data_it_gives_shapes_and_gradients(build, tokens, pattern):
    model = patterned(build, pattern).to("meta")
    logits = model(tokens.to("meta"))
    assert (logits.shape, logits.device.type) == ((2, 40, 64), "meta")
    logits.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
