"""What is said and kept of a run beside its numbers: its duration, the use of the device, trackers and traces."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models import ModelError
from tests.training.conftest import MakeConfig
from training import train, utilisation
from training.config import TrainConfig, differences
from training.forecast import Forecast, at_least, spoken
from training.push import push
from training.tracking import tracker_options
from training.utilisation import Utilisation, published_peak


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_a_long_run_is_said_to_be_long_before_it_begins() -> None:
    assert at_least(1e15, 1e12) is None
    assert at_least(7.2e15, 1e12) == (
        "this takes 2 h at least: 7.2e+15 operations, at 1.0e+12 per second in one product"
    )


def test_the_tenth_step_tells_how_long_the_others_take() -> None:
    forecast = Forecast()
    forecast.validated(5.0)
    lines = [forecast.stepped(60.0 if step == 0 else 2.0, 1490 - step, 6) for step in range(12)]
    assert [line is not None for line in lines] == [step == 9 for step in range(12)]
    assert lines[9] == (
        f"2 s per step; the 1,481 steps left and 6 validations take about {spoken(1481 * 2 + 6 * 5)}"
    )


@pytest.mark.slow
def test_a_run_says_it_and_traces_what_it_was_asked_to(
    make: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(make("train.steps=12", "train.profile=2", "train.validate_every=99"))
    said = capsys.readouterr().out
    assert "step 10: " in said
    assert "s per step; the 2 steps left take about" in said
    trace = json.loads((run / "profile" / "rank-0.json").read_text())
    steps = {event["name"] for event in trace["traceEvents"] if "ProfilerStep" in event["name"]}
    assert len(steps) == 2


@pytest.mark.parametrize(
    ("device", "precision", "float32_matmul", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", "highest", 989.4e12),
        ("NVIDIA H100 PCIe", "bf16", "highest", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", "highest", 312e12),
        ("NVIDIA A100-SXM4-80GB", "fp32", "highest", 19.5e12),
        ("NVIDIA A100-SXM4-80GB", "fp32", "high", 156e12),
        ("NVIDIA A10", "fp16", "highest", 125e12),
        ("NVIDIA A10G", "bf16", "highest", None),
        ("NVIDIA GeForce RTX 4090", "bf16", "highest", 165.2e12),
        ("NVIDIA L4", "bf16", "highest", 121e12),
        ("cpu", "fp32", "highest", None),
    ],
)
def test_the_published_peak_of_a_device(
    device: str, precision: str, float32_matmul: str, peak: float | None
) -> None:
    assert published_peak(device, precision, float32_matmul) == peak


def test_utilisation_is_of_all_devices_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "matmul_rate", lambda device, dtype: 700e12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    train = TrainConfig(precision="bf16")
    used = Utilisation(train, torch.device("cuda", 0), processes=8, work=2e9).at(1e6)
    assert used == pytest.approx({"mfu": 2e15 / (8 * 989.4e12), "matmul_utilisation": 2e15 / (8 * 700e12)})
    assert Utilisation(train, torch.device("cpu"), 1, 2e9).at(0.35) == pytest.approx(
        {"matmul_utilisation": 1e-6}
    )


def test_a_machine_without_a_compiler_says_so_before_anything_is_made(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = make("train.compile=true")
    with pytest.raises(ModelError, match=r"train.compile needs a C.* and no-such-compiler was"):
        train(config)
    assert not config.path.exists()


def test_weights_and_biases_takes_what_config_and_environment_say(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    plain = make("train.tracker=wandb")
    options = tracker_options(plain, 0, "0123456789")
    assert options["project_name"] == "attention-zoo"
    assert options["init_kwargs"]["wandb"] == {
        "name": "tiny",
        "dir": str(plain.path),
        "id": "tiny-01234567",
        "resume": "allow",
    }
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert tracker_options(plain, 0, "0")["project_name"] == "mine"
    full = make(
        "train.tracker=wandb",
        "train.wandb_project=theirs",
        "train.wandb_entity=lab",
        "train.wandb_group=seeds",
        "train.wandb_tags='softpick, nano'",
    )
    options = tracker_options(full, 0, "0")
    assert options["project_name"] == "theirs"
    chosen = {key: options["init_kwargs"]["wandb"][key] for key in ("entity", "group", "tags")}
    assert chosen == {"entity": "lab", "group": "seeds", "tags": ["softpick", "nano"]}
    assert differences({"train": {"tracker": "none"}}, full) == differences({}, plain)


@pytest.mark.slow
def test_files_of_an_evaluation_are_shown_where_the_curves_are(make: MakeConfig, tmp_path: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture, page = tmp_path / "heatmaps.png", tmp_path / "report.html"
    Image.new("RGB", (4, 3), (255, 0, 0)).save(picture)
    page.write_text("<p>")
    run = train(make("train.steps=2", "train.warmup_steps=1", "train.tracker=tensorboard"))
    push(run, [picture])
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    (shown,) = events.Images("heatmaps")
    assert (shown.step, shown.width, shown.height) == (2, 4, 3)
    with pytest.raises(ModelError, match=r"report\.html is no \.png file, which tensorboard can show"):
        push(run, [page])
    with pytest.raises(ModelError, match=r"has train\.tracker=none, and so nowhere to show files"):
        push(train(make("train.steps=1", "train.warmup_steps=1", "name=none")), [picture])


@pytest.mark.slow
def test_weights_and_biases_gets_pictures_and_pages_for_the_run_that_it_knows(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for its package."""
    calls: list[Any] = []

    class Tracked:
        def __enter__(self) -> "Tracked":
            return self

        def __exit__(self, *details: object) -> None:
            calls.append("finished")

        def log(self, values: dict[str, Any]) -> None:
            calls.append(values)

    def init(**options: Any) -> Tracked:
        calls.append(options)
        return Tracked()

    module = SimpleNamespace(init=init, Html=lambda file: ("html", file), Image=lambda file: ("image", file))
    run = train(make("train.steps=1", "train.warmup_steps=1"))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("training.tracking.find_spec", lambda name: object())
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("tracker: none", "tracker: wandb"))
    picture, page = tmp_path / "heatmaps.png", tmp_path / "report.html"
    for file in (picture, page):
        file.touch()
    push(run, [picture, page])
    options, values, end = calls
    known = tracker_options(make("train.tracker=wandb"), 0, options["id"].removeprefix("tiny-"))
    assert options == {"project": known["project_name"]} | known["init_kwargs"]["wandb"]
    assert values == {"heatmaps": ("image", str(picture)), "report": ("html", str(page))}
    assert end == "finished"
