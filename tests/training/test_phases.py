"""Mechanisms that follow the training: its progress, and noise that is a function of seed and layer."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import attention
from attention import Phase
from data import PackedDataset, prepare
from models import GPT, ModelConfig
from storage import log
from tests.training.conftest import MakeConfig
from training import train
from training.batches import TrainingBatches

pytestmark = pytest.mark.slow

NOISY = {"gumbel_softmax": {}, "annealed_softmax": {"amplitude": 0.5}}


def network(mechanism: str, kernel: str = "auto", **options) -> GPT:
    torch.manual_seed(0)
    return GPT(
        ModelConfig(
            preset="nano",
            n_layer=2,
            n_head=2,
            d_model=32,
            kernel=kernel,
            init_std=0.2,
            attention=mechanism,
            attention_options={mechanism: options},
        )
    )


def test_noise_is_a_function_of_seed_and_layer_and_absent_in_evaluation():
    model = network("gumbel_softmax")
    tokens = torch.arange(24).view(2, 12)

    def logits(seed: int, training: bool = True) -> torch.Tensor:
        return model(tokens, phase=Phase(training, 0.5, torch.tensor(seed)))

    assert torch.equal(logits(7), logits(7))
    assert not torch.allclose(logits(7), logits(8))
    seeds = [int(layer.attention.mixer.own(Phase(True, 0.5, torch.tensor(7))).seed) for layer in model.layers]
    assert seeds == [7 << 20, 7 << 20 | 1]
    assert torch.equal(logits(7, training=False), logits(8, training=False))


def test_temperature_follows_the_progress():
    model = network("annealed_softmax", start=4.0, temperature=0.25)
    tokens = torch.arange(12)[None]
    mixer = model.layers[0].attention.mixer

    def scale(phase: Phase) -> float:
        call = attention.Call(torch.ones(1, 1), None, {}, mixer.own(phase))
        return mixer.mechanism.scores(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), call).scale

    for progress, temperature in ((0.0, 4.0), (0.5, 1.0), (1.0, 0.25)):
        assert abs(scale(Phase(True, progress)) - 0.5 / temperature) < 1e-12
    before = model(tokens, phase=Phase(True, 0.0))
    assert abs(scale(attention.INFERENCE) - 2.0) < 1e-12
    assert not torch.allclose(model(tokens), before)


def test_softmax_is_sharpened_in_evaluation_only():
    tokens = torch.arange(12)[None]
    adaptive, plain = network("adaptive_softmax"), network("softmax")
    adaptive.load_state_dict(plain.state_dict())
    assert torch.allclose(adaptive(tokens, phase=Phase(training=True)), plain(tokens), atol=1e-6)
    assert not torch.allclose(adaptive(tokens), plain(tokens), atol=1e-6)


@pytest.mark.parametrize("kernel", ["dense", "tiled", "cpu"])
@pytest.mark.parametrize("mechanism", NOISY)
def test_a_sequence_has_its_noise_however_the_batch_is_cut(
    make: MakeConfig, mechanism: str, kernel: str
) -> None:
    model = network(mechanism, kernel, **NOISY[mechanism])
    dataset = PackedDataset(prepare(make().data).train, 12)

    def logits(rank: int, processes: int, micro: int | None) -> torch.Tensor:
        cut = TrainingBatches(
            dataset, seed=1, batch_size=8, micro_batch_size=micro, rank=rank, processes=processes
        )
        parts = []
        for number, batch in enumerate(cut.at(3)):
            phase = Phase(True, 0.5, torch.tensor(7), cut.first(number))
            parts.append(model(batch["tokens"] % 24, phase=phase))
        return torch.cat(parts)

    whole = logits(0, 1, None)
    for processes, micro in ((1, 4), (1, 1), (2, None), (2, 2)):
        cut = torch.cat([logits(rank, processes, micro) for rank in range(processes)])
        torch.testing.assert_close(cut, whole)
    same = torch.arange(12).repeat(2, 1)
    first, second = model(same, phase=Phase(True, 0.5, torch.tensor(7)))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("mechanism", NOISY)
def test_the_loss_does_not_depend_on_how_a_step_is_cut(make: MakeConfig, mechanism: str) -> None:
    options = [f"model.attention={mechanism}", "train.steps=4", "train.validate_every=4"]
    options += [f"model.attention_options={{{mechanism}: {{amplitude: 1.0}}}}"]
    losses = [
        [
            record["loss"]
            for record in log.read(
                train(make(*options, f"train.micro_batch_size={size}", f"name=cut-{size}"))
            )
            if "loss" in record
        ]
        for size in (4, 2, 1)
    ]
    assert len(losses[0]) == 4
    for others in losses[1:]:
        assert others == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("mechanism", NOISY)
def test_a_new_step_does_not_compile_anew(mechanism: str) -> None:
    model = network(mechanism, "tiled", **NOISY[mechanism])
    tokens = torch.arange(12)[None]
    torch._dynamo.reset()
    compiles = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=compiles)
    counts = []
    for step in range(4):
        phase = Phase(True, step / 4, torch.tensor(step), torch.tensor(2 * step))
        torch.testing.assert_close(compiled(tokens, phase=phase), model(tokens, phase=phase))
        counts.append(compiles.frame_count)
    torch._dynamo.reset()
    # The second step finds that progress is a number that changes; from then on nothing is new.
    assert counts[3] == counts[1]
