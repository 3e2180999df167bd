"""The summed losses of training against their plain formulas."""

import itertools
import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attention
from attention import AttentionError
from models import GPT, ModelConfig, ModelError, trace
from models.loss import token_losses
from models.readout import PLAIN, Readout, log_stablemax
from training.losses import Options, cce, chunked
from training.losses.chunked import cross_entropy
from training.losses.entropy import entropy_penalty
from training.losses.objective import Objective, held_out_losses

READOUTS = [PLAIN, Readout("stablemax"), Readout(softcap=2.0), Readout("stablemax", softcap=2.0)]


def problem(tokens: int = 37, vocabulary: int = 29, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 8, generator=chance, dtype=dtype).requires_grad_()
    head = torch.randn(vocabulary, 8, generator=chance, dtype=dtype).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=chance)
    targets[::5] = -100
    return [hidden, head, targets]


def plain(hidden: Any, head: Any, targets: Any, weights: Any, z_loss: float, readout: Readout) -> Any:
    """The formulas, with the logits of all tokens and autograd."""
    logits = hidden @ head.T
    if readout.softcap is not None:
        logits = readout.softcap * torch.tanh(logits / readout.softcap)
    stable = readout.prediction == "stablemax"
    score = torch.where(logits >= 0, logits + 1, 1 / (1 - logits)) if stable else logits.exp()
    kept = targets != -100
    normaliser = score.sum(-1).log()
    nats = normaliser - score.gather(-1, targets.clamp(min=0)[:, None])[:, 0].log()
    return ((nats + z_loss * normaliser**2) * weights)[kept].sum(), (nats * weights)[kept].sum()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_FEWEST_ROWS", 7)
    monkeypatch.setattr(chunked, "_PART", {"cpu": 1})


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("readout", READOUTS, ids=str)
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_give_the_loss_and_gradient_of_the_formula(
    readout: Readout, z_loss: float, weighted: bool
) -> None:
    hidden, head, targets = problem()
    weights = torch.rand(37, dtype=torch.float64) if weighted else None
    found = cross_entropy(hidden, head, targets, z_loss=z_loss, weights=weights, readout=readout)
    expected = plain(hidden, head, targets, 1 if weights is None else weights, z_loss, readout)
    torch.testing.assert_close(tuple(found), expected)
    assert not found.nats.requires_grad
    gradients = torch.autograd.grad(3 * found.total, [hidden, head])
    torch.testing.assert_close(gradients, torch.autograd.grad(3 * expected[0], [hidden, head]))


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
@settings(max_examples=25)
@given(
    tokens=st.integers(1, 20),
    vocabulary=st.integers(2, 12),
    readout=st.sampled_from(READOUTS),
    z_loss=st.sampled_from([0.0, 0.1]),
)
def test_gradients_are_finite_differences(
    tokens: int, vocabulary: int, readout: Readout, z_loss: float
) -> None:
    hidden, head, targets = problem(tokens, vocabulary)
    assert torch.autograd.gradcheck(
        lambda *x: cross_entropy(*x, targets, z_loss=z_loss, readout=readout).total,
        (hidden, head),
    )


def test_float32_gives_the_numbers_of_the_loss_per_token() -> None:
    hidden, head, targets = problem(300, 64, torch.float32)
    found = cross_entropy(hidden, head, targets)
    per_token = token_losses(hidden[None], targets[None], lambda x: x @ head.T, 64)
    torch.testing.assert_close(found.total, per_token.sum(), rtol=1e-6, atol=0)
    assert torch.equal(found.total, found.nats)
    gradients = torch.autograd.grad(found.total, [hidden, head])
    torch.testing.assert_close(
        gradients, torch.autograd.grad(per_token.sum(), [hidden, head]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("changes", [{}, {"prediction": "stablemax"}, {"logit_softcap": 0.1}], ids=str)
def test_validation_is_the_loss_of_training_token_by_token(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64, **changes))
    tokens, targets = torch.randint(64, (2, 2, 16))
    targets[:, ::3] = -100
    documents = torch.zeros_like(tokens)
    found = held_out_losses(model, tokens, targets, documents)
    assert torch.equal(found.sum(), Objective(model)(tokens, targets, documents).nats)
    torch.testing.assert_close(found, model(tokens, targets=targets, documents=documents))
    assert not found.requires_grad


def test_stablemax_is_the_papers_ratio_and_stable() -> None:
    logits = torch.tensor([[3.0, 0.0, -2.0, 1e30, -1e30]], dtype=torch.float64, requires_grad=True)
    score = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    torch.testing.assert_close(log_stablemax(logits).exp(), score)
    (slope,) = torch.autograd.grad(log_stablemax(logits).sum(), logits)
    torch.testing.assert_close(slope, 1 / (1 + logits.detach().abs()))
    assert log_stablemax(logits.detach().float()).isfinite().all()
    assert log_stablemax(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    shifted = log_stablemax(logits.detach()[:, :3] + 5).softmax(-1)
    assert not torch.allclose(shifted, log_stablemax(logits.detach()[:, :3]).softmax(-1), atol=0.01)


def test_the_gradient_of_stablemax_is_the_closed_form() -> None:
    logits = torch.randn(1, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    score = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    slope = torch.where(logits >= 0, 1.0, 1 / (1 - logits) ** 2)
    hidden = logits.clone().requires_grad_()
    target = torch.tensor([4])
    loss = cross_entropy(
        hidden, torch.eye(9, dtype=torch.float64), target, readout=Readout("stablemax")
    ).total
    (found,) = torch.autograd.grad(loss, hidden)
    hit = torch.nn.functional.one_hot(target, 9)
    torch.testing.assert_close(found, slope * (1 / score.sum() - hit / score))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("changes", [{}, {"prediction": "stablemax"}])
def test_the_objective_is_the_models_own_loss(tied: bool, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64, tie_embeddings=tied, **changes))
    tokens = torch.randint(64, (2, 16))
    targets = tokens.roll(-1, 1).clone()
    targets[:, -1] = -100
    loss = Objective(model)(tokens, targets)
    loss.total.backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    expected = model(tokens, targets=targets).sum()
    expected.backward()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(
        found, [parameter.grad for parameter in model.parameters()], rtol=1e-4, atol=1e-5
    )
    logits = model(tokens).double()
    exact = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(loss.nats.double(), exact[targets >= 0].sum(), rtol=1e-5, atol=0)


def test_autocast_multiplies_in_half_precision_and_adds_up_in_float32() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64))
    tokens = torch.randint(64, (2, 16))
    exact = Objective(model)(tokens, tokens).total
    with torch.autocast("cpu", torch.bfloat16):
        loss = Objective(model)(tokens, tokens)
    loss.total.backward()
    assert loss.total.dtype == loss.nats.dtype == model.embedding.weight.grad.dtype == torch.float32
    assert loss.total != exact
    torch.testing.assert_close(loss.total, exact, rtol=0.01, atol=0)


def test_the_logits_of_a_batch_are_never_held() -> None:
    """The largest tensor that is made has one part's logits; autograd keeps the gradients of both operands."""
    tokens, vocabulary = 4096, 4096
    hidden, head, _ = problem(tokens, vocabulary, torch.float32)
    targets = torch.zeros(tokens, dtype=torch.long)
    largest, kept = 0, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with Watch(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy(hidden, head, targets).total.backward()
    assert largest == chunked._PART["cpu"] < tokens * vocabulary
    assert kept == hidden.numel() + head.numel()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_the_objective_compiles_to_one_graph() -> None:
    torch.manual_seed(0)
    objective = Objective(
        GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64, kernel="sdpa")), Options(z_loss=0.1)
    )
    tokens = torch.randint(64, (2, 16))
    expected = objective(tokens, tokens).total
    found = torch.compile(objective, backend="aot_eager", fullgraph=True)(tokens, tokens).total
    torch.testing.assert_close(found, expected)
    for total in (found, expected):
        total.backward()
    torch._dynamo.reset()


def test_cut_cross_entropy_is_called_as_its_package_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def linear_cross_entropy(
        e: Any,
        c: Any,
        targets: Any,
        ignore_index: int,
        softcap: float | None,
        reduction: str,
        filter_eps: float | None,
    ) -> torch.Tensor:
        calls.append((filter_eps, e.dtype, c.dtype))
        logits = e.float() @ c.float().T
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        return torch.nn.functional.cross_entropy(
            logits, targets, ignore_index=ignore_index, reduction=reduction
        )

    module = SimpleNamespace(linear_cross_entropy=linear_cross_entropy)
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", module)  # type: ignore[arg-type]
    hidden, head, targets = problem(dtype=torch.float32)
    expected = cross_entropy(hidden, head, targets)
    torch.testing.assert_close(tuple(cce.cut_cross_entropy(hidden, head, targets)), tuple(expected))
    assert calls == [(None, torch.float32, torch.float32)]
    capped = Readout(softcap=2.0)
    torch.testing.assert_close(
        tuple(cce.cross_entropy(hidden, head, targets, z_loss=0.0, readout=capped, dtype=torch.float32)),
        tuple(cross_entropy(hidden, head, targets, readout=capped)),
    )


def test_a_loss_kernel_that_cannot_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64))
    stablemax = GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64, prediction="stablemax"))
    tokens = torch.zeros(1, 4, dtype=torch.long)
    monkeypatch.setattr(cce, "find_spec", lambda name: None)
    with pytest.raises(
        ModelError, match=r"cce cannot serve: it is not installed: pip install -e '\.\[cce\]'"
    ):
        Objective(model, Options(loss_kernel="cce"))
    monkeypatch.setattr(cce, "find_spec", lambda name: object())
    with pytest.raises(ModelError, match="it has no z-loss; use chunked"):
        Objective(model, Options(z_loss=1e-4, loss_kernel="cce"))
    with pytest.raises(ModelError, match="it computes softmax only"):
        Objective(stablemax, Options(loss_kernel="cce"))
    with pytest.raises(ModelError, match=r"runs on CUDA in half precision, not on cpu in torch\.float32"):
        Objective(model, Options(loss_kernel="cce"))(tokens, tokens)
    Objective(model)(tokens, tokens)


def test_the_entropy_penalty_is_its_formula_and_its_gradient() -> None:
    chance = torch.Generator().manual_seed(0)
    entropy = torch.rand(2, 6, 3, generator=chance, dtype=torch.float64).requires_grad_()
    share = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    visible = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4]])
    targets = torch.tensor([[3, 3, 3, -100, 3, 3], [-100, -100, 3, 3, 3, 3]])
    found = entropy_penalty(entropy, visible, targets, share=share, margin=0.2)
    expected, slope = 0.0, torch.zeros(3, dtype=torch.float64)
    for b, i, h in itertools.product(range(2), range(6), range(3)):
        largest = math.log(max(visible[b, i].item(), 1))
        deviation = entropy[b, i, h].item() - share[h].item() * largest
        if targets[b, i] >= 0 and visible[b, i] > 1 and abs(deviation) > 0.2 * largest:
            expected += deviation**2 / 3
            slope[h] -= 2 * deviation * largest / 3
    assert found.item() == pytest.approx(expected)
    assert expected > 0
    torch.testing.assert_close(torch.autograd.grad(found, share, retain_graph=True)[0], slope)
    assert torch.autograd.gradcheck(
        lambda *x: entropy_penalty(x[0], visible, targets, share=x[1], margin=0.2), (entropy, share)
    )


def test_the_entropy_penalty_reaches_scores_by_the_closed_form() -> None:
    """dL/ds = 2 d (−p (ln p + H)), for a row outside of the margin."""
    scores = torch.randn(
        1, 1, 1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    p = scores.softmax(-1)
    entropy = torch.special.entr(p).sum(-1)
    visible, target = torch.tensor([[7]]), torch.tensor([[0]])
    (found,) = torch.autograd.grad(entropy_penalty(entropy, visible, target, share=0.1, margin=0.2), scores)
    deviation = entropy - 0.1 * math.log(7)
    torch.testing.assert_close(
        found, (2 * deviation[..., None] * -p * (p.log() + entropy[..., None])).detach()
    )
    inside = entropy_penalty(entropy, visible, target, share=(entropy / math.log(7)).item(), margin=0.2)
    assert inside.item() == 0


def test_the_objective_adds_the_mean_penalty_of_the_layers():
    torch.manual_seed(0)
    network = GPT(ModelConfig(preset="nano", n_layer=2, n_head=2, d_model=32, attention="softmax"))
    tokens, targets = torch.randint(0, 50, (2, 2, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    plain = Objective(network)(tokens, targets, documents)
    weighed = Objective(network, Options(entropy_penalty=0.5, entropy_share=0.2, entropy_margin=0.1))(
        tokens, targets, documents
    )
    assert torch.equal(plain.nats, weighed.nats)
    calls = []
    with trace(network, attention=calls.append):
        network(tokens, documents=documents)
    expected = 0.0
    for call in calls:
        weight = attention.weights(call.query, call.key, "softmax", documents=documents)
        rows = torch.special.entr(weight).sum(-1).transpose(1, 2)
        seen = (weight[:, 0] > 0).sum(-1)
        expected += entropy_penalty(rows, seen, targets, share=0.2, margin=0.1) / len(calls)
    assert torch.allclose(weighed.total - plain.total, 0.5 * expected, rtol=1e-4)
    gradients = torch.autograd.grad(weighed.total - plain.total, network.layers[0].attention.query.weight)
    assert float(gradients[0].abs().max()) > 0
    swat = GPT(ModelConfig(preset="nano", n_layer=1, n_head=2, d_model=32, attention="swat"))
    with pytest.raises(AttentionError, match="row_stats"):
        Objective(swat, Options(entropy_penalty=1.0))
