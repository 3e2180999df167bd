from dataclasses import asdict, fields

import pytest
import torch
from omegaconf import OmegaConf

import attention
from models import GPT, ModelConfig, ModelError, preset, presets, resolve
from models.config import from_dict

SHAPE = {"vocab_size": 64, "n_layer": 4, "n_head": 4, "d_model": 32, "max_length": 64}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("nano", 0.9e6, 1.3e6),
        ("micro", 4.5e6, 5.5e6),
        ("60m", 55e6, 65e6),
        ("125m", 120e6, 130e6),
        ("340m", 335e6, 380e6),
        ("760m", 740e6, 790e6),
        ("1.8b", 1.75e9, 1.85e9),
    ],
)
def test_a_preset_has_the_size_of_its_name(name, low, high):
    with torch.device("meta"):
        assert low < GPT(preset(name)).parameter_count() < high


def test_the_ranges_cover_every_preset():
    assert presets() == ["nano", "micro", "60m", "125m", "340m", "760m", "1.8b"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("340m", (24, 1024, 16, 16, 2816, 32_000)),
        ("760m", (24, 1536, 16, 16, 4096, 32_000)),
        ("1.8b", (32, 2048, 32, 32, 5632, 32_000)),
    ],
)
def test_the_large_presets_have_the_papers_shapes(name, expected):
    config = preset(name)
    shape = (config.n_layer, config.d_model, config.n_head, config.n_kv_head, config.d_ff, config.vocab_size)
    assert shape == expected
    assert (config.mlp, config.tie_embeddings, config.init_std, config.norm_eps) == (
        "swiglu",
        False,
        0.006,
        1e-6,
    )
    assert (config.position, config.rope_theta) == ("rope", 10_000)


def test_what_is_given_wins_over_the_preset():
    config = resolve(ModelConfig(preset="340m", n_layer=2, d_model=512, tie_embeddings=True))
    assert (config.n_layer, config.d_model, config.n_head, config.tie_embeddings) == (2, 512, 16, True)
    assert config.d_ff == 1536, "the width of the MLP follows an overridden d_model"


def test_resolving_twice_changes_nothing_and_survives_yaml():
    config = resolve(ModelConfig(preset="nano", attention="swat", attention_options={"swat": {"window": 8}}))
    assert resolve(config) == config
    saved = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(asdict(config)))))
    assert resolve(from_dict(saved)) == config


def test_the_config_takes_dotted_overrides():
    overrides = OmegaConf.from_dotlist(["preset=nano", "window=128", "attention_options.swat.window=64"])
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), overrides))
    assert (config.window, config.attention_options) == ("128", {"swat": {"window": 64}})


def test_the_mlp_width_follows_its_kind():
    assert resolve(ModelConfig(**SHAPE, mlp="gelu")).d_ff == 128
    assert resolve(ModelConfig(**SHAPE, mlp="swiglu")).d_ff == 256


def test_layers_have_their_mechanism_and_window():
    config = resolve(ModelConfig(**SHAPE, attention="softmax*1,swat*1", window="none*2,16*2"))
    default = attention.get("swat").window
    assert [plan.mechanism.name for plan in config.layers] == ["softmax", "swat"] * 2
    assert [plan.window for plan in config.layers] == [None, default, 16, 16]


def test_options_reach_the_mechanism():
    config = resolve(ModelConfig(**SHAPE, attention="swat", attention_options={"swat": {"window": 5}}))
    assert {plan.window for plan in config.layers} == {5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "nan"}, "unknown preset 'nan'; did you mean 'nano'"),
        ({"n_layer": None}, "model.n_layer is not set; give it, or a preset"),
        ({"vocab_size": None}, "model.vocab_size is not set"),
        ({"n_layer": 0}, "model.n_layer must be a positive integer"),
        ({"d_model": 32.0}, "model.d_model must be a positive integer"),
        ({"max_length": True}, "model.max_length must be a positive integer"),
        ({"n_kv_head": 0}, "model.n_kv_head must be a positive integer"),
        ({"d_ff": -1}, "model.d_ff must be a positive integer"),
        ({"n_head": 5}, "d_model 32 must be a multiple of n_head 5"),
        ({"n_kv_head": 3}, "n_head 4 must be a multiple of n_kv_head 3"),
        ({"d_model": 36}, "RoPE turns pairs of channels, so d_model / n_head must be even, got 9"),
        ({"position": "sine"}, "unknown position 'sine'"),
        ({"mlp": "swigl"}, "unknown mlp 'swigl'; did you mean 'swiglu'"),
        ({"kernel": "tild"}, "unknown kernel 'tild'; did you mean 'tiled'"),
        ({"init_std": 0.0}, "model.init_std must be a positive number"),
        ({"rope_theta": float("nan")}, "model.rope_theta must be a positive number"),
        ({"norm_eps": -1e-6}, "model.norm_eps must be a positive number"),
        ({"window": "0"}, "window '0'"),
        ({"window": "none*1,x"}, "window 'x'"),
        ({"window": "8*5"}, "spans 5 layers"),
        ({"attention": "softmax*"}, "cannot read 'softmax\\*'"),
        ({"attention": "softmax*9"}, "spans 9 layers, the model has 4"),
        ({"attention_options": {"swat": {"window": 8}}}, "'swat', which no layer uses"),
        (
            {"attention": "swat", "window": "16", "attention_options": {"swat": {"window": 8}}},
            "a swat layer has two windows: 16 .* 8",
        ),
    ],
)
def test_a_mistake_is_refused_in_one_line(changes, message):
    with pytest.raises(ModelError, match=message) as refusal:
        resolve(ModelConfig(**{**SHAPE, **changes}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "softmaxx"},
        {"attention": "swat", "attention_options": {"swat": {"windo": 8}}},
        {"attention": "swat", "attention_options": {"swat": {"window": 0}}},
    ],
)
def test_what_attention_does_not_know_is_refused_when_the_config_is_resolved(changes):
    with pytest.raises(attention.AttentionError):
        resolve(ModelConfig(**{**SHAPE, **changes}))


@pytest.mark.parametrize(
    ("field", "choice"),
    [(field.name, choice) for field in fields(ModelConfig) for choice in field.metadata.get("choices", ())],
)
def test_a_model_of_every_choice_can_be_built_without_memory(field, choice):
    """As a saved run is opened."""
    with torch.device("meta"):
        model = GPT(ModelConfig(**SHAPE, **{field: choice}))
        assert model(torch.zeros(1, 5, dtype=torch.long)).shape == (1, 5, 64)


def test_odd_heads_are_fine_without_rope():
    assert resolve(ModelConfig(**{**SHAPE, "d_model": 36}, position="none")).head_dim == 9


def test_an_unknown_field_of_a_saved_config_is_refused():
    with pytest.raises(ModelError, match="no field 'n_layers'; did you mean 'n_layer'"):
        from_dict({"n_layers": 4})
