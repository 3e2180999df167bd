"""What a model is made of: the config a person writes, the presets that fill it, and the checks.

`ModelConfig` holds what was chosen; `resolve` fills the fields left None, from the preset where one is named,
so that an override always wins over it. `Architecture` is the result: the same fields, every choice made.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import attention
from attention import Mechanism
from attention.core.inputs import example
from attention.kernels.dispatch import KERNELS
from common.errors import nearest
from common.ranges import FLOAT32, ranged, violation
from common.shapes import mismatch
from models import patterns
from models.errors import ModelError


@dataclass
class ModelConfig:
    """The choices of a model. None means: from the preset, or derived as said here.

    Attributes:
        preset: one of `presets()`, or None when the shape is given field by field.
        vocab_size: rows of the embedding; at least the tokenizer's. Ids above those are part of every softmax, and so
            of losses and likelihoods, and are never written.
        n_layer, n_head, d_model: depth, query heads, width.
        n_kv_head: key/value heads; None: as many as query heads.
        d_ff: width of the MLP; None: 8/3 d_model rounded up to 256 for swiglu, 4 d_model for gelu.
        max_length: hard limit on positions in training, evaluation and generation. It costs no memory.
        attention: mechanism names by layer, `"softmax"` or a pattern, `"softmax*1,swat*3"`.
        attention_options: options of mechanisms by name, `{"swat": {"window": 64}}`.
        window: keys a query sees, itself included, by layer: `"128"`, `"none*1,128*3"`; None: the default
            of each layer's mechanism.
        kernel: how attention is computed: "auto" or the name of a kernel.
        position: "rope" or "none".
        rope_theta: base of the rotary frequencies.
        qk_norm: RMS-normalise queries and keys per head.
        differential: subtract one map from another: heads are paired, values are twice as wide.
        output_norm: RMS-normalise the output of each head.
        gate: "headwise" or "elementwise": multiply the heads' outputs by a sigmoid of the block's input; "none".
        mlp: "swiglu" or "gelu"; None: the preset's, else swiglu.
        prediction: how logits become probabilities, "softmax" or "stablemax"; the cross-entropy trained on is its.
        tie_embeddings: one matrix for embedding and head; None: the preset's, else true.
        norm_eps: epsilon of every RMSNorm.
        init_std: standard deviation of initial weights; None: the preset's, else 0.02.
    """

    preset: str | None = None
    vocab_size: int | None = ranged(None, 1, 2**24)
    n_layer: int | None = ranged(None, 1, 1024)
    n_head: int | None = ranged(None, 1, 2**16)
    n_kv_head: int | None = ranged(None, 1, 2**16)
    d_model: int | None = ranged(None, 1, 2**20)
    d_ff: int | None = ranged(None, 1, 2**24)
    max_length: int | None = ranged(None, 1, 2**31)
    attention: str = "softmax"
    attention_options: dict[str, Any] = field(default_factory=dict)
    window: str | None = None
    kernel: str = "auto"
    position: str = "rope"
    rope_theta: float = ranged(10_000.0, 0.0, FLOAT32, above=True)
    qk_norm: bool = False
    differential: bool = False
    output_norm: bool = False
    gate: str = "none"
    mlp: str | None = None
    prediction: str = "softmax"
    tie_embeddings: bool | None = None
    norm_eps: float = ranged(1e-6, 0.0, 1.0, above=True)
    init_std: float | None = ranged(None, 0.0, 1e6, above=True)


@dataclass(frozen=True)
class LayerPlan:
    """How one layer attends: its 0-based depth, its mechanism, and the window that holds for it (None: all keys)."""

    depth: int
    mechanism: Mechanism
    window: int | None


@dataclass(kw_only=True)
class Architecture(ModelConfig):
    """A `ModelConfig` with every choice made and checked; made by `resolve`."""

    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_ff: int
    max_length: int
    mlp: str
    tie_embeddings: bool
    init_std: float

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.d_model // self.n_head

    @property
    def value_dim(self) -> int:
        """Channels of a value, and of what a head mixes: two heads' together where maps are paired."""
        return 2 * self.head_dim if self.differential else self.head_dim

    @property
    def n_output_head(self) -> int:
        """Heads that reach the output projection: pairs of maps count once."""
        return self.n_head // 2 if self.differential else self.n_head

    def layers(self) -> list[LayerPlan]:
        """Mechanism and window of each layer.

        Raises:
            AttentionError: unknown mechanism or option.
            ModelError: an unreadable pattern, options that no layer uses, two windows for one layer, a kernel
                that does not run its mechanism.
        """
        names = patterns.tile(self.attention, self.n_layer)
        _check_options(self.attention_options)
        for name in self.attention_options:
            if name not in names:
                used = nearest(name, set(names))
                raise ModelError(f"attention_options has {name!r}, which no layer uses{used}")
        windows = patterns.windows(self.window, self.n_layer)
        choices = zip(range(self.n_layer), names, windows, strict=True)
        return [self._layer(*choice) for choice in choices]

    def _layer(self, depth: int, name: str, window: int | None) -> LayerPlan:
        options = self.attention_options.get(name, {})
        if window is not None and "window" in options:
            raise ModelError(
                f"a {name} layer has two windows: {window} from window={self.window!r} and "
                f"{options['window']} from attention_options[{name!r}]; give one"
            )
        mechanism = attention.get(name, **options)
        if self.kernel != "auto" and (reason := _refusal(self.kernel, mechanism)):
            raise ModelError(f"model.kernel: {reason}")
        example(mechanism, window=window)  # refuses a window that the mechanism does not take
        return LayerPlan(depth, mechanism, mechanism.window if window is None else window)


def _refusal(kernel: str, mechanism: Mechanism) -> str | None:
    """Why a kernel does not run a mechanism; only the kernel in question is asked, since asking some compiles them."""
    if kernel not in KERNELS:
        return f"unknown kernel {kernel!r}{nearest(kernel, ['auto', *KERNELS])}"
    reason = KERNELS[kernel].refuses(example(mechanism))
    return None if reason is None else f"{kernel} does not run {mechanism.name}: {reason}"


def _check_options(options: Any) -> None:
    if problem := mismatch(options, dict[str, dict[str, Any]], "model.attention_options"):
        raise ModelError(f"{problem}; write options by mechanism, {{swat: {{window: 64}}}}")


_PRESETS: dict[str, ModelConfig] = {
    "nano": ModelConfig(vocab_size=1024, n_layer=4, n_head=4, d_model=128, max_length=8192),
    "micro": ModelConfig(vocab_size=1024, n_layer=6, n_head=4, d_model=256, max_length=16_384),
    "60m": ModelConfig(vocab_size=32_000, n_layer=12, n_head=8, d_model=512, max_length=65_536),
    # GPT-2 small's shape with RoPE and RMSNorm: the setting of the LSSAR paper (arXiv 2501.13428).
    "125m": ModelConfig(vocab_size=50_304, n_layer=12, n_head=12, d_model=768, max_length=65_536, mlp="gelu"),
    # The softpick paper's 340M recipe (arXiv 2504.20966, table 6).
    "340m": ModelConfig(
        vocab_size=32_000,
        n_layer=24,
        n_head=16,
        d_model=1024,
        max_length=65_536,
        tie_embeddings=False,
        init_std=0.006,
    ),
}


def presets() -> list[str]:
    """Names of the presets, smallest model first."""
    return list(_PRESETS)


def preset(name: str) -> Architecture:
    """A preset with every field filled, ready for `GPT`.

    Raises:
        ModelError: unknown name.
    """
    return resolve(ModelConfig(preset=name))


def from_dict(section: dict[str, Any]) -> ModelConfig:
    """A config from the `model` section of a saved config.

    Raises:
        ModelError: a key that no field has, or a value of another type.
    """
    known = [field.name for field in fields(ModelConfig)]
    for key in section:
        if key not in known:
            raise ModelError(f"the model config has no field {key!r}{nearest(key, known)}")
    if problem := mismatch(section, ModelConfig, "model"):
        raise ModelError(problem)
    return ModelConfig(**section)


def resolve(config: ModelConfig) -> Architecture:
    """Fill the fields left None from the preset and the rules of `ModelConfig`, and check the whole.

    Resolving what is resolved already changes nothing.

    Raises:
        ModelError: unknown preset or choice, a missing field, or fields that do not fit together.
        AttentionError: unknown mechanism or mechanism option.
    """
    chosen = {**_preset_values(config.preset), **_given(config)}
    for name in ("vocab_size", "n_layer", "n_head", "d_model", "max_length"):
        if name not in chosen:
            raise ModelError(f"model.{name} is not set; give it, or a preset ({', '.join(presets())})")
    if problem := violation(config, "model.", ModelConfig):
        # Zero init_std among them: zero queries or keys kill softpick and LSSAR for good.
        raise ModelError(problem)
    chosen.setdefault("n_kv_head", chosen["n_head"])
    chosen.setdefault("mlp", "swiglu")
    chosen.setdefault("tie_embeddings", True)
    chosen.setdefault("init_std", 0.02)
    _check_choice("mlp", chosen["mlp"], ("swiglu", "gelu"))
    chosen.setdefault("d_ff", _mlp_width(chosen["mlp"], chosen["d_model"]))
    architecture = Architecture(**chosen)
    _check(architecture)
    return architecture


def _preset_values(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    if name not in _PRESETS:
        raise ModelError(f"unknown preset {name!r}{nearest(name, _PRESETS)}")
    return _given(_PRESETS[name])


def _given(config: ModelConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if value is not None}


def _mlp_width(mlp: str, d_model: int) -> int:
    return math.ceil(int(d_model * 8 / 3) / 256) * 256 if mlp == "swiglu" else 4 * d_model


def _check(config: Architecture) -> None:
    _check_choice("position", config.position, ("rope", "none"))
    _check_choice("prediction", config.prediction, ("softmax", "stablemax"))
    _check_choice("gate", config.gate, ("none", "headwise", "elementwise"))
    if config.d_model % config.n_head:
        raise ModelError(f"d_model {config.d_model} must be a multiple of n_head {config.n_head}")
    if config.n_head % config.n_kv_head:
        raise ModelError(f"n_head {config.n_head} must be a multiple of n_kv_head {config.n_kv_head}")
    if config.position == "rope" and config.head_dim % 2:
        raise ModelError(
            f"RoPE turns pairs of channels, so d_model / n_head must be even, got {config.head_dim}"
        )
    if config.differential and (config.n_head % 2 or config.n_kv_head % 2):
        raise ModelError(
            f"differential attention pairs heads: n_head {config.n_head} and n_kv_head {config.n_kv_head} must be even"
        )
    if config.differential and config.output_norm:
        raise ModelError(
            "differential attention norms the output of each head itself; leave output_norm false"
        )
    config.layers()


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f"unknown {name} {value!r}{nearest(value, choices)}")
