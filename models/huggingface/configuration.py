"""The config of a model of this project as transformers reads and writes it."""

from dataclasses import asdict
from typing import Any

from transformers import PreTrainedConfig

from models.config import from_dict
from models.errors import ModelError
from models.plan import Plan, resolve

CODE = {
    "AutoConfig": "configuration_attention_zoo.AttentionZooConfig",
    "AutoModelForCausalLM": "modeling_attention_zoo.AttentionZooForCausalLM",
}
"""Where transformers finds the classes in a folder that carries its code."""


class AttentionZooConfig(PreTrainedConfig):
    """A model's plan under `plan`, and its sizes by the names that transformers gives them.

    Attributes:
        plan: every field of `models.ModelConfig`. It decides; a size beside it that says otherwise is refused.
    """

    model_type = "attention_zoo"
    has_no_defaults_at_init = True

    def __init__(self, plan: dict[str, Any] | None = None, **others: Any) -> None:
        """Check a plan.

        Raises:
            ModelError: there is none, it does not say how to attend, cannot be built, or a size contradicts it.
            AttentionError: unknown mechanism or mechanism option.
        """
        if not plan or "attention" not in plan:
            raise ModelError("this config has no plan that says how its layers attend; export the run anew")
        resolved = resolve(from_dict({**plan, "kernel": "auto"}))
        for name, value in sizes(resolved).items():
            if others.setdefault(name, value) != value:
                raise ModelError(f"the config says {name}={others[name]!r}, its plan {value!r}")
        others.setdefault("auto_map", dict(CODE))
        super().__init__(**others)
        self.plan = asdict(resolved)


def sizes(plan: Plan) -> dict[str, Any]:
    """The sizes of a model by the names of transformers."""
    return {
        "vocab_size": plan.vocab_size,
        "hidden_size": plan.d_model,
        "intermediate_size": plan.d_ff,
        "num_hidden_layers": plan.n_layer,
        "num_attention_heads": plan.n_head,
        "num_key_value_heads": plan.n_kv_head,
        "head_dim": plan.head_dim,
        "max_position_embeddings": plan.max_length,
        "tie_word_embeddings": plan.tie_embeddings,
    }
