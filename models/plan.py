"""The plan of a model: its config with every choice made, once.

A config says what was chosen; `resolve` fills what it leaves open, from the preset where one is named, so that an
override always wins over it.
"""

from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import attention
from attention import Mechanism
from attention.core.inputs import AttentionInputs, example
from common.errors import nearest
from common.ranges import violation
from common.shapes import mismatch
from models.config import ModelConfig, given, preset_values, presets
from models.errors import ModelError
from models.mlps import MLPS
from models.patterns import tile, windows
from models.postops import POST_OPS


@dataclass(frozen=True)
class LayerPlan:
    """How one layer attends: its 0-based depth, its mechanism, and the window that holds for it (None: all keys)."""

    depth: int
    mechanism: Mechanism
    window: int | None


@dataclass(kw_only=True)
class Plan(ModelConfig):
    """A `ModelConfig` with every choice made and checked, by `resolve`; what model, cache and FLOP count take.

    Nothing of it can be set anew.

    Attributes:
        layers: how each layer attends; the other attributes are those of `ModelConfig`.
    """

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

    def __post_init__(self) -> None:
        self.layers = self._layers()
        self._frozen = True

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, "_frozen"):
            raise FrozenInstanceError(
                f"{name} of a plan cannot be set; change the config and resolve it anew"
            )
        super().__setattr__(name, value)

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

    def _layers(self) -> tuple[LayerPlan, ...]:
        """Mechanism and window of each layer.

        Raises:
            AttentionError: unknown mechanism or option.
            ModelError: an unreadable pattern, options that no layer uses, two windows for one layer, a kernel
                that does not run its mechanism.
        """
        names = tile(self.attention, self.n_layer)
        _check_options(self.attention_options)
        for name in self.attention_options:
            if name not in names:
                used = nearest(name, set(names))
                raise ModelError(f"attention_options has {name!r}, which no layer uses{used}")
        choices = zip(range(self.n_layer), names, windows(self.window, self.n_layer), strict=True)
        return tuple(self._layer(*choice) for choice in choices)

    def _layer(self, depth: int, name: str, window: int | None) -> LayerPlan:
        options = self.attention_options.get(name, {})
        if window is not None and "window" in options:
            raise ModelError(
                f"a {name} layer has two windows: {window} from window={self.window!r} and "
                f"{options['window']} from attention_options[{name!r}]; give one"
            )
        mechanism = attention.get(name, **options)
        # Refuses what the mechanism does not take.
        like = example(mechanism, n_head=self.n_head, window=window, slopes=self.position == "alibi")
        if self.kernel != "auto" and (reason := _refusal(self.kernel, like)):
            raise ModelError(f"model.kernel: {reason}")
        return LayerPlan(depth, mechanism, mechanism.window if window is None else window)


def _refusal(kernel: str, like: AttentionInputs) -> str | None:
    """Why a kernel does not run such calls."""
    # Kernels bring torch's compiler along, which takes as long as torch: who names none shall not wait for it.
    from attention.kernels.dispatch import KERNELS
    from attention.kernels.kernel import refusal

    if kernel not in KERNELS:
        return f"unknown kernel {kernel!r}{nearest(kernel, ['auto', *KERNELS])}"
    reason = refusal(KERNELS[kernel], like)
    return None if reason is None else f"{kernel} does not run {like.mechanism.name}: {reason}"


def _check_options(options: Any) -> None:
    if problem := mismatch(options, dict[str, dict[str, Any]], "model.attention_options"):
        raise ModelError(f"{problem}; write options by mechanism, {{swat: {{window: 64}}}}")


def preset(name: str) -> Plan:
    """A preset with every field filled, ready for `GPT`.

    Raises:
        ModelError: unknown name.
    """
    return resolve(ModelConfig(preset=name))


def resolve(config: ModelConfig) -> Plan:
    """Fill the fields left None from the preset and the rules of `ModelConfig`, and check the whole.

    What is resolved already is given back.

    Raises:
        ModelError: unknown preset or choice, a missing field, or fields that do not fit together.
        AttentionError: unknown mechanism or mechanism option.
    """
    if isinstance(config, Plan):
        return config
    chosen = {**preset_values(config.preset), **given(config)}
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
    chosen.setdefault("d_ff", MLPS[chosen["mlp"]].width(chosen["d_model"]))
    plan = Plan(**chosen)
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    if plan.d_model % plan.n_head:
        raise ModelError(f"d_model {plan.d_model} must be a multiple of n_head {plan.n_head}")
    if plan.n_head % plan.n_kv_head:
        raise ModelError(f"n_head {plan.n_head} must be a multiple of n_kv_head {plan.n_kv_head}")
    if plan.position == "rope" and plan.head_dim % 2:
        raise ModelError(
            f"RoPE turns pairs of channels, so d_model / n_head must be even, got {plan.head_dim}"
        )
    if plan.qk_gain is not None and not plan.qk_norm:
        raise ModelError(
            "qk_gain is a factor of normalised queries; set qk_norm true with it, or leave it null"
        )
    for post_op in POST_OPS.values():
        if post_op.asked(plan):
            post_op.check(plan)
