"""Gates, output norms and differential attention, with any mechanism."""

import math

import pytest
import torch

import attention
from models import KVCache, ModelConfig, ModelError, resolve, trace
from models.config import from_dict
from models.gpt import GPT
from models.postops.difference import Difference
from storage.run import load_weights

POST_OPS = {
    "headwise gate": {"gate": "headwise"},
    "elementwise gate": {"gate": "elementwise"},
    "output norm": {"output_norm": True},
    "differential": {"differential": True},
    "norm and gate": {"output_norm": True, "gate": "headwise"},
    "differential and gate": {"differential": True, "gate": "elementwise", "qk_norm": True},
}
PATTERNS = ["softmax*1,swat*1", "lssar*1,gaussian*1"]
every_post_op = pytest.mark.parametrize("chosen", POST_OPS.values(), ids=POST_OPS.keys())
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


def patterned(build, pattern, **changes):
    return build(attention=pattern, window="none*1,7*1", kernel="dense", **changes)


def watched(model, tokens):
    """Per layer: what goes into attention, the call that is traced, and what comes out before the projection back."""
    inputs, calls, results = [], [], []
    for layer in model.layers:
        layer.attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        layer.attention.output.register_forward_pre_hook(lambda _, given: results.append(given[0]))
    with torch.no_grad(), trace(model, attention=calls.append):
        model(tokens)
    return list(zip(inputs, calls, results, strict=True))


def rms_norm(x, norm):
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight


def perturb(model):
    """Weights off their initial ones, so that a test notices when they are left out."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter.data, mean=1.0, std=0.2)
    return model


@pytest.mark.parametrize("kind", ["headwise", "elementwise"])
def test_a_gate_is_a_sigmoid_of_the_input(build, tokens, kind):
    model = build(gate=kind)
    for (x, call, result), layer in zip(watched(model, tokens), model.layers, strict=True):
        gate = torch.sigmoid(x @ layer.attention.post_ops["gate"].projection.weight.T)
        expected = call.output * gate.view(2, 40, 4, 8 if kind == "elementwise" else 1)
        torch.testing.assert_close(result, expected.flatten(-2), rtol=0, atol=1e-12)


def test_the_norm_is_per_head(build, tokens):
    model = perturb(build(attention="swat", output_norm=True))
    for (_, call, result), layer in zip(watched(model, tokens), model.layers, strict=True):
        expected = rms_norm(call.output, layer.attention.post_ops["output_norm"].norm)
        torch.testing.assert_close(result, expected.flatten(-2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_kv_head", [2, 4, 8])
def test_differential_attention_is_the_papers_formula(build, tokens, n_kv_head):
    model = perturb(build(differential=True, n_head=8, n_kv_head=n_kv_head))
    for depth, (x, call, result) in enumerate(watched(model, tokens)):
        op = model.layers[depth].attention.post_ops["difference"]
        initial = 0.8 - 0.6 * math.exp(-0.3 * depth)
        query, key = op.query, op.key
        share = torch.exp(query[0] @ key[0]) - torch.exp(query[1] @ key[1]) + initial
        value = model.layers[depth].attention.value(x).view(2, 40, n_kv_head // 2, 8)
        weights = attention.weights(call.query, call.key, call.mechanism, **call.spec.options)
        group, heads = 8 // n_kv_head, []
        for pair in range(n_kv_head // 2):
            for member in range(group):
                first, second = (
                    weights[:, 2 * pair * group + member],
                    weights[:, (2 * pair + 1) * group + member],
                )
                mixed = (first - share * second) @ value[:, :, pair]
                heads.append((1 - initial) * rms_norm(mixed, op.norm))
        expected = torch.stack(heads, dim=2)
        assert expected.shape == (2, 40, 4, 8)
        torch.testing.assert_close(result, expected.flatten(-2), rtol=0, atol=1e-9)


def test_the_maps_of_a_pair_read_keys_of_their_own_and_one_value(build, tokens):
    calls = [call for _, call, _ in watched(build(differential=True), tokens)]
    for call in calls:
        assert call.query.shape == (2, 40, 4, 8)
        assert call.key.shape == (2, 40, 2, 8)
        assert call.value.shape == (2, 40, 2, 16)
        assert torch.equal(call.value[:, :, 0], call.value[:, :, 1])
        assert not torch.equal(call.key[:, :, 0], call.key[:, :, 1])


@every_pattern
@every_post_op
def test_a_trace_reports_what_the_mechanism_did(build, tokens, chosen, pattern):
    for _, call, _ in watched(patterned(build, pattern, **chosen), tokens):
        weights = attention.weights(call.query, call.key, call.mechanism, **call.spec.options)
        value = call.value.repeat_interleave(2, dim=2)
        mixed = torch.einsum("bhts,bshd->bthd", weights.to(value.dtype), value)
        torch.testing.assert_close(mixed, call.output, rtol=0, atol=1e-9)


def test_lambda_starts_where_the_paper_says():
    torch.manual_seed(0)
    config = resolve(ModelConfig(preset="nano", n_layer=12, d_model=1024, n_head=2, differential=True))
    ops = [Difference(config, plan) for plan in config.layers]
    assert [op.initial for op in ops[:2]] == pytest.approx([0.2, 0.35550907])
    vectors = torch.cat([vector.detach().flatten() for op in ops for vector in (op.query, op.key)])
    assert vectors.std().item() == pytest.approx(0.1, rel=0.03)
    still = ops[0]
    torch.nn.init.zeros_(still.query)
    assert still.weight().item() == pytest.approx(0.2)


@every_pattern
@every_post_op
def test_every_parameter_learns(build, tokens, chosen, pattern):
    model = patterned(build, pattern, **chosen)
    model(tokens, targets=tokens).sum().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still


@every_post_op
def test_the_gradient_is_that_of_the_function(build, tokens, chosen):
    model = build(n_layer=1, attention="swat", **chosen)
    parameters = dict(model.layers[0].attention.post_ops.named_parameters())
    tokens = tokens[:1, :9]

    def loss(*values):
        state = {
            f"layers.0.attention.post_ops.{name}": value
            for name, value in zip(parameters, values, strict=True)
        }
        return torch.func.functional_call(model, state, (tokens,)).square().mean()

    assert torch.autograd.gradcheck(loss, tuple(parameters.values()), fast_mode=True)


@every_pattern
@every_post_op
def test_a_later_token_never_changes_an_earlier_output(build, tokens, chosen, pattern):
    model = patterned(build, pattern, **chosen)
    changed = tokens.clone()
    changed[:, 17] = (changed[:, 17] + 1) % 64
    with torch.no_grad():
        assert torch.equal(model(changed)[:, :17], model(tokens)[:, :17])


@every_pattern
@every_post_op
def test_a_text_in_parts_gives_the_logits_of_the_whole(build, tokens, chosen, pattern):
    chunks = [19, 2, *[1] * 6, 13]
    model = patterned(build, pattern, **chosen)
    documents = torch.tensor([[-1] * 5 + [0] * 12 + [1] * 23, [0] * 20 + [1] * 1 + [2] * 19])
    cache = KVCache(model.plan)
    with torch.no_grad():
        parts = [
            model(part, documents=ids, cache=cache)
            for part, ids in zip(tokens.split(chunks, 1), documents.split(chunks, 1), strict=True)
        ]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens, documents=documents), rtol=0, atol=1e-9)


def test_paired_maps_cost_no_more_cache(build, tokens):
    sizes = []
    for differential in (False, True):
        model = build(differential=differential)
        cache = KVCache(model.plan)
        with torch.no_grad():
            model(tokens, cache=cache)
        sizes.append(cache.nbytes)
    assert sizes[0] == sizes[1]


@every_post_op
def test_autocast_keeps_the_residual_stream_in_float32(build, tokens, chosen):
    model = build(**chosen).float()
    exact = model(tokens, targets=tokens)
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        layer.attention.output.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(tokens, targets=tokens)
    losses.sum().backward()
    assert seen == [torch.bfloat16, torch.float32] * 2
    torch.testing.assert_close(losses, exact, rtol=0.1, atol=0.3)
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
@pytest.mark.parametrize("name", ["norm and gate", "differential and gate"])
def test_a_model_compiles_to_one_graph(build, tokens, name):
    model = build(n_layer=1, kernel="sdpa", **POST_OPS[name])
    plain = model(tokens)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(tokens)
    torch.testing.assert_close(compiled, plain)
    torch._dynamo.reset()


def test_the_norm_evens_out_the_heads_of_swat(build, tokens):
    """With slope +1/2 a head sums its window; with −1/2 its weights add up to about 1.6."""

    def spread(model):
        sizes = [
            result.unflatten(-1, (4, 8)).norm(dim=-1).mean((0, 1)) for _, _, result in watched(model, tokens)
        ]
        return max((size.max() / size.min()).item() for size in sizes)

    assert spread(build(attention="swat")) > 5
    assert spread(build(attention="swat", output_norm=True)) == pytest.approx(1, abs=0.01)


def test_parameters_and_operations_are_counted(build):
    plain = build()
    added = {
        name: build(**chosen).parameter_count() - plain.parameter_count() for name, chosen in POST_OPS.items()
    }
    # Per layer: a gate takes d_model x heads (x channels), the norm one weight per channel, λ four vectors.
    assert added == {
        "headwise gate": 2 * 32 * 4,
        "elementwise gate": 2 * 32 * 32,
        "output norm": 2 * 8,
        "differential": 2 * (4 * 8 + 16),
        "norm and gate": 2 * (8 + 32 * 4),
        "differential and gate": 2 * (4 * 8 + 16 + 32 * 32 + 16),
    }
    gated, paired = build(gate="elementwise"), build(differential=True)
    assert gated.flops_per_token(10) - plain.flops_per_token(10) == pytest.approx(6 * 2 * 32 * 32)
    # Scores as before, values twice as wide: 6 (n_head D) per layer and key more.
    assert paired.flops_per_token(9) - plain.flops_per_token(9) == pytest.approx(6 * 2 * 32 * 5)


def test_a_model_saved_before_there_were_post_ops_loads(build, tmp_path):
    from safetensors.torch import save_file

    old = build(kernel="dense")
    save_file(old.state_dict(), tmp_path / "model.safetensors")
    known = {"vocab_size": 64, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    config = from_dict({**known, "max_length": 512, "attention": "softmax", "qk_norm": False})
    model = GPT(config)
    load_weights(model, tmp_path / "model.safetensors")
    assert all(not layer.attention.post_ops for layer in model.layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "channelwise"}, "unknown gate 'channelwise'"),
        ({"differential": True, "n_head": 3, "d_model": 24}, "n_head 3 and n_kv_head 3 must be even"),
        ({"differential": True, "n_kv_head": 1}, "n_head 4 and n_kv_head 1 must be even"),
        ({"differential": True, "output_norm": True}, "norms the output of each head itself"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    shape = {"vocab_size": 64, "n_layer": 2, "n_head": 4, "d_model": 32, "max_length": 64}
    with pytest.raises(ModelError, match=message) as caught:
        resolve(ModelConfig(**{**shape, **changes}))
    assert "\n" not in str(caught.value)
