"""What a person says of a model: the config, the presets that fill it, and a config read from a saved run.

`models.plan.resolve` makes the choices that a config leaves open.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from common.errors import nearest
from common.ranges import FLOAT32, one_of, ranged
from common.shapes import mismatch
from models.errors import ModelError
from models.mlps import MLPS
from models.norms import NORMS
from models.postops import OPTIONS as POST_OP_OPTIONS
from models.value_embedding import Options as ValueEmbeddingOptions


@dataclass
class ModelConfig(ValueEmbeddingOptions, *POST_OP_OPTIONS):  # type: ignore[misc]
    """The choices of a model, with those of its value embeddings and post-ops.

    None means: from the preset, or derived as said here.

    Attributes:
        preset: one of `presets()`, or None when the shape is given field by field.
        vocab_size: rows of the embedding; at least the tokenizer's. Ids above those are part of every softmax, and so
            of losses and likelihoods, and are never written.
        n_layer: depth.
        n_head: query heads.
        d_model: width of the residual stream.
        n_kv_head: key/value heads; None: as many as query heads.
        d_ff: width of the MLP; None: 8/3 d_model rounded up to 256 for swiglu, 4 d_model for the others.
        max_length: hard limit on positions in training, evaluation and generation. It costs no memory.
        attention: mechanism names by layer, `"softmax"` or a pattern, `"softmax*1,swat*3"`.
        attention_options: options of mechanisms by name, `{"swat": {"window": 64}}`.
        window: keys a query sees, itself included, by layer: `"128"`, `"none*1,128*3"`; None: the default
            of each layer's mechanism.
        kernel: how attention is computed: "auto" or the name of a kernel.
        position: "rope", "alibi" (a slope per head of the scores), or "none".
        rope_theta: base of the rotary frequencies.
        qk_norm: normalise queries and keys per head, before the rotation.
        qk_gain: initial value of a learned factor of each head's normalised queries; None: there is none.
        norm: the kind of every norm: "rms" has a gain per channel, "single_scale" one gain, "unscaled" none.
        mlp: "swiglu", "gelu" or "relu_squared"; None: the preset's, else swiglu.
        prediction: how logits become probabilities, "softmax" or "stablemax"; the cross-entropy trained on is its.
        logit_softcap: c of c tanh(z / c), which the logits z of the head go through; None: they do not.
        tie_embeddings: one matrix for embedding and head; None: the preset's, else true.
        norm_eps: epsilon of every norm.
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
    position: str = one_of("rope", "alibi", "none")
    rope_theta: float = ranged(10_000.0, 0.0, FLOAT32, above=True)
    qk_norm: bool = False
    qk_gain: float | None = ranged(None, 0.0, 1e6, above=True)
    norm: str = one_of("rms", *(name for name in NORMS if name != "rms"))
    mlp: str | None = one_of(None, *MLPS)
    prediction: str = one_of("softmax", "stablemax")
    logit_softcap: float | None = ranged(None, 0.0, 1e6, above=True)
    tie_embeddings: bool | None = None
    norm_eps: float = ranged(1e-6, 0.0, 1.0, above=True)
    init_std: float | None = ranged(None, 0.0, 1e6, above=True)


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
    # GPT-3 Large's depth, width and heads (arXiv 2005.14165, table 2.1), with the block and the vocabulary of the 340m:
    # the middle size of most linear-attention papers, SWAT's among them (arXiv 2502.18845).
    "760m": ModelConfig(
        vocab_size=32_000,
        n_layer=24,
        n_head=16,
        d_model=1536,
        max_length=65_536,
        tie_embeddings=False,
        init_std=0.006,
    ),
    # The softpick paper's 1.8B recipe (arXiv 2504.20966, table 6).
    "1.8b": ModelConfig(
        vocab_size=32_000,
        n_layer=32,
        n_head=32,
        d_model=2048,
        max_length=65_536,
        tie_embeddings=False,
        init_std=0.006,
    ),
}


def presets() -> list[str]:
    """Names of the presets, smallest model first."""
    return list(_PRESETS)


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


def preset_values(name: str | None) -> dict[str, Any]:
    """What a preset says.

    Raises:
        ModelError: unknown name.
    """
    if name is None:
        return {}
    if name not in _PRESETS:
        raise ModelError(f"unknown preset {name!r}{nearest(name, _PRESETS)}")
    return given(_PRESETS[name])


def given(config: ModelConfig) -> dict[str, Any]:
    """What a config says, without what it leaves open."""
    return {name: value for name, value in asdict(config).items() if value is not None}
