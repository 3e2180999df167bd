"""Models of this project as models of Hugging Face's transformers.

    import models.huggingface
    model = AutoModelForCausalLM.from_pretrained(DIR)

opens what `python -m models.export` wrote, with the code of this checkout. Elsewhere `trust_remote_code=True` does so,
with the code that lies in DIR.
"""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from models.huggingface import modeling
from models.huggingface.code import write_code
from models.huggingface.configuration import AttentionZooConfig

__all__ = ["AttentionZooConfig", "AttentionZooForCausalLM"]


class AttentionZooForCausalLM(modeling.AttentionZooForCausalLM):
    """The model, whose code is saved along with it."""

    def save_pretrained(  # type: ignore[override]  # noqa: D102
        self, save_directory: Any, **options: Any
    ) -> None:
        super().save_pretrained(save_directory, **options)
        write_code(save_directory)


AutoConfig.register(AttentionZooConfig.model_type, AttentionZooConfig, exist_ok=True)
AutoModelForCausalLM.register(AttentionZooConfig, AttentionZooForCausalLM, exist_ok=True)
