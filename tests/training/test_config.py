"""Configs: files that extend files, overrides, and mistakes that are named."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from common.configs import chain
from common.describe import keys
from common.errors import InputError
from models import ModelError
from tests.training.conftest import ROOT, MakeConfig
from training import Config, load
from training.config import as_dict, describe_keys, differences, fingerprint, resolve_precision

OTHERS = {ROOT / "configs" / "studies", ROOT / "configs" / "accelerate"}
"""Folders of files that are no configs of a run."""

SHIPPED = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent not in OTHERS)
RECIPES = sorted((ROOT / "configs" / "recipes").rglob("*.yaml"))


def write(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_file_wins_over_what_it_extends_and_an_override_over_both(tmp_path: Path) -> None:
    write(tmp_path / "far.yaml", model={"preset": "nano", "n_layer": 1}, train={"steps": 500, "clip": 2.0})
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "near.yaml", extends="../far.yaml", model={"n_layer": 2}, train={"length": 64})
    mine = write(tmp_path / "mine.yaml", extends="sub/near.yaml", seed=3)
    config = load(mine, ["train.length=32", "train.clip=null"])
    assert (config.model.preset, config.model.n_layer, config.seed) == ("nano", 2, 3)
    assert (config.train.steps, config.train.length, config.train.clip) == (500, 32, None)
    assert config.name == "mine"


def test_of_several_files_that_are_extended_the_later_ones_win(tmp_path: Path) -> None:
    write(tmp_path / "size.yaml", extends="far.yaml", train={"length": 64})
    write(tmp_path / "far.yaml", model={"preset": "nano"}, train={"steps": 500, "clip": 2.0})
    write(tmp_path / "recipe.yaml", extends=["far.yaml", "part.yaml"], train={"schedule": "wsd"})
    write(tmp_path / "part.yaml", train={"steps": 700})
    mine = write(tmp_path / "mine.yaml", extends=["size.yaml", "recipe.yaml"], train={"clip": 3.0})
    assert [Path(name).name for name, _ in chain(mine)] == [
        "far.yaml",
        "size.yaml",
        "part.yaml",
        "recipe.yaml",
        "mine.yaml",
    ]
    train = load(mine).train
    assert (train.length, train.steps, train.clip, train.schedule) == (64, 700, 3.0, "wsd")


def test_further_configs_are_laid_over_the_first_and_under_the_options(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", model={"preset": "nano"}, train={"steps": 500, "clip": 2.0})
    second = write(tmp_path / "second.yaml", train={"steps": 700, "length": 64})
    config = load(first, ["train.length=32", str(second)])
    assert (config.train.steps, config.train.clip, config.train.length) == (700, 2.0, 32)
    assert config.name == "first-second"
    assert load(first, [str(second), "name=mine"]).name == "mine"
    with pytest.raises(InputError, match=r"no config file .*thrid\.yaml"):
        load(first, [str(tmp_path / "thrid.yaml")])


def test_options_of_mechanisms_pass_through(tmp_path: Path) -> None:
    base = write(tmp_path / "a.yaml", model={"preset": "nano", "attention": "swat"})
    config = load(base, ["model.attention_options.swat.window=17"])
    assert config.model.attention_options == {"swat": {"window": 17}}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.n_layr=4", "unknown key 'model.n_layr'; did you mean 'model.n_layer'"),
        ("n_layer=4", "unknown key 'n_layer'; did you mean 'model.n_layer'"),
        ("train.zzzz=4", "unknown key 'train.zzzz'; train.py --keys lists all keys"),
        ("train.steps=many", "train.steps: Value 'many' of type 'str' could not be converted to Integer"),
        ("train.steps=2.5", "could not be converted to Integer"),
        ("train.steps=null", "train.steps"),
        (
            "train.schedule=linear",
            "train.schedule: unknown schedule 'linear'; did you mean 'cosine'? (known: constant, cosine, wsd)",
        ),
        ("train=3", "'train' is a section; set one of its keys, like train.steps=..."),
        ("data.tokenizer=bpe", "'data.tokenizer' is a section"),
        ("train.steps", "must read key=value"),
        ("=3", "must read key=value"),
        ("train.steps=[1", "option 'train.steps=[1'"),
        ("train.steps=${nothing}", "train.steps: '${nothing}' is a reference, which is not followed"),
        ("model.attention_options.swat.window=${oc.env:HOME}", "is a reference, which is not followed"),
        ("train.learning_rate=inf", "train.learning_rate must be a positive number"),
        ("train.learning_rate=1e300", "train.learning_rate must be a positive number"),
        (f"train.learning_rate={10**400}", "train.learning_rate must be a number that a float can hold"),
        ("train.clip=1e-320", "train.clip must be a positive number"),
        ("train.adam_epsilon=inf", "train.adam_epsilon must be a positive number"),
        ("train.weight_decay=nan", "train.weight_decay must be a number from 0"),
        ("train.z_loss=inf", "train.z_loss must be a number from 0"),
        ("train.beta1=1", "train.beta1 must be a number from 0"),
        ("train.beta1=???", "train.beta1: '???' is no value"),
        ("train.orthograd=3", "train.orthograd must be true or false, got 3"),
        ("model.output_norm=1:30", "YAML reads 1:30 in base sixty"),
        ("train.compile=99999999999999999999999", "train.compile must be true or false"),
        ("train.steps=true", "train.steps must be a number, got True"),
        ("seed=-1", "seed must be an integer of at least 0, at most 4294967295, got -1"),
        ("seed=4294967296", "seed must be an integer of at least 0"),
        ("model.rope_theta=1e-300", "model.rope_theta must be a positive number"),
        ("model.norm_eps=1e300", "model.norm_eps must be a positive number"),
        ("model.init_std=1e300", "model.init_std must be a positive number"),
        ("model.n_layer=99999999999999999999999", "model.n_layer must be a positive integer, at most 1024"),
        ("model.n_layer=20000", "model.n_layer must be a positive integer, at most 1024"),
        ("model.vocab_size=1000000000", "model.vocab_size must be a positive integer"),
        ("model.d_ff=100000000", "model.d_ff must be a positive integer"),
        (f"model.n_layer={'9' * 5000}", "model.n_layer"),
        ("model.window=99999999999999999999999", "must be 'none' or a positive number of keys"),
        ("model.attention=softmax*99999999999", "cannot read 'softmax*99999999999' in the pattern"),
        (
            "model.attention_options.softmax=3",
            "model.attention_options.softmax must be a section of keys and values",
        ),
        ("model.attention_options=[1]", "model.attention_options"),
        ("model.kernel=tild", "unknown kernel 'tild'; did you mean 'tiled'"),
        (
            "data.tokenizer.vocab_size=99999999999999999999",
            "data.tokenizer.vocab_size must be a positive integer",
        ),
        ("data.seed=99999999999999999999", "data.seed must be an integer"),
        (f"name={'x' * 256}", "must be a plain folder name"),
        (f"name={'x' * 99}\n", "must be a plain folder name"),
        (f"out={'x/' * 2100}", "must be a path of at most 3800 bytes"),
        (f"out={'x' * 256}", "without control characters or endless names"),
        ("out=a\nb", "without control characters or endless names"),
        ("train.lr=1", "unknown key 'train.lr'; did you mean 'train.learning_rate'"),
        ("train.steps=0", "train.steps must be a positive integer, at most 1000000000, got 0"),
        ("train.warmup_steps=1001", "train.warmup_steps must be in [0, steps=1000], got 1001"),
        ("train.z_loss=-1", "train.z_loss must be a number from 0 to 1e+06, got -1.0"),
        (
            "train.loss_kernel=cut",
            "train.loss_kernel: unknown loss_kernel 'cut'; did you mean 'auto'? (known: auto, cce, chunked)",
        ),
        ("model.gate=headwize", "unknown gate 'headwize'"),
        ("model.prediction=sigmoid", "unknown prediction 'sigmoid'"),
        ("train.learning_rate=-1", "train.learning_rate must be a positive number"),
        ("train.length=100000", "train.length must be at most model.max_length=8192"),
        ("name=../elsewhere", "must be a plain folder name"),
        ("model.attention=softpik", "softpick"),
        ("model.n_head=3", "d_model 128 must be a multiple of n_head 3"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, override: str, complaint: str) -> None:
    path = write(tmp_path / "a.yaml", model={"preset": "nano"}, train={"steps": 1000})
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        load(path, [override])
    assert "\n" not in str(caught.value)


def test_the_file_with_the_mistake_is_named(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", train={"stepz": 3})
    with pytest.raises(
        ModelError, match=r"base\.yaml: unknown key 'train.stepz'; did you mean 'train.steps'"
    ):
        load(write(tmp_path / "a.yaml", extends="base.yaml"))


@pytest.mark.parametrize("written", ["no", "007", "1.10", "[a]"])
@pytest.mark.parametrize("key", ["name", "data.path", "data.separator", "train.precision"])
def test_what_yaml_takes_for_no_text_is_no_text(tmp_path: Path, key: str, written: str) -> None:
    section, _, last = key.rpartition(".")
    path = tmp_path / "a.yaml"
    line = f"{last}: {written}"
    path.write_text(f"model: {{preset: nano}}\n{f'{section}: {{{line}}}' if section else line}\n")
    with pytest.raises(ModelError, match=rf"a\.yaml: {key} must be a text, got .*; in quotes it is one"):
        load(path)


def test_circles_missing_files_and_broken_yaml_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", extends="b.yaml")
    write(tmp_path / "b.yaml", extends="a.yaml")
    with pytest.raises(InputError, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load(tmp_path / "a.yaml")
    with pytest.raises(InputError, match=r"no config file .*aa\.yaml; did you mean .*a\.yaml"):
        load(tmp_path / "aa.yaml")
    (tmp_path / "broken.yaml").write_text("train: [1\n")
    with pytest.raises(InputError, match="is not YAML"):
        load(tmp_path / "broken.yaml")
    (tmp_path / "endless.yaml").write_text("train: &a {steps: *a}\n")
    with pytest.raises(InputError, match=r"endless\.yaml is not YAML: .*recursive"):
        load(tmp_path / "endless.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match=r"must hold keys and values"):
        load(tmp_path / "list.yaml")
    with pytest.raises(InputError, match="no config file"):
        load(tmp_path)
    with pytest.raises(
        InputError, match=r"extends must be the path of a config, or a list of some, got \[1\]"
    ):
        load(write(tmp_path / "number.yaml", extends=[1]))


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(ROOT)) for path in SHIPPED])
def test_shipped_configs_load(path: Path) -> None:
    """A recipe says how, and is laid over a config that says what."""
    first = ROOT / "configs/demo/softmax.yaml" if path in RECIPES else path
    assert isinstance(load(first, [str(path)] * (path in RECIPES)), Config)


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(ROOT)) for path in SHIPPED])
def test_a_shipped_config_repeats_nothing_that_it_extends(path: Path) -> None:
    *above, (_, values) = chain(path)
    assert not _repeated(
        values, OmegaConf.to_object(OmegaConf.merge({}, *(extended for _, extended in above)))
    )


def _repeated(values: dict[str, object], parent: dict[str, object]) -> list[str]:
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(parent.get(key), dict):
            found += _repeated(value, parent[key])  # type: ignore[arg-type]
        elif key in parent and parent[key] == value:
            found.append(key)
    return found


def test_differences_and_fingerprint_leave_out_what_a_resumed_run_may_change(make: MakeConfig) -> None:
    saved, same, other = (
        make(),
        make("train.log_every=9", "train.keep_checkpoints=5"),
        make("train.learning_rate=1"),
    )
    assert differences(as_dict(saved), same) == []
    assert fingerprint(saved) == fingerprint(same) != fingerprint(other)
    assert differences(as_dict(saved), other) == ["train.learning_rate: 0.003 -> 1.0"]


def test_a_key_that_is_newer_than_a_run_had_its_default(make: MakeConfig) -> None:
    saved = as_dict(make())
    del saved["model"]["gate"], saved["train"]["z_loss"]
    assert differences(saved, make()) == []
    assert differences(saved, make("train.z_loss=0.1", "model.gate=headwise")) == [
        "model.gate: 'none' -> 'headwise'",
        "train.z_loss: 0.0 -> 0.1",
    ]


def test_precision_is_decided_by_the_device() -> None:
    with pytest.raises(ModelError, match="fp16 needs a GPU"):
        resolve_precision("fp16", torch.device("cpu"))
    assert resolve_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"


def test_all_keys_can_be_listed() -> None:
    listed = describe_keys().splitlines()
    assert "train.steps: int = 1000" in listed
    assert any(line.startswith("data.tokenizer.vocab_size: int") for line in listed)


def test_every_key_says_what_it_means() -> None:
    undescribed = [name for name, _, _, text in keys(Config) if not text.partition("[")[0].strip()]
    assert undescribed == []


def test_a_number_in_base_sixty_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", model={"preset": "nano"})
    with pytest.raises(ValueError, match="YAML reads 1:30 in base sixty"):
        load(path, ["train.steps=1:30"])
    path.write_text("train: {steps: 1:30}")
    with pytest.raises(ValueError, match=r"a\.yaml: YAML reads 1:30 in base sixty"):
        load(path)


def test_the_run_to_begin_with_is_a_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.yaml", model={"preset": "nano"})
    monkeypatch.chdir(tmp_path)
    config = load(path, ["train.init_from=runs/other"])
    assert config.train.init_from == str(tmp_path / "runs" / "other")
    saved = as_dict(config)
    saved["train"]["init_from"] = "runs/other"
    assert differences(saved, config) == []
