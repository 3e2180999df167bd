"""Tiny random Hugging Face models of many families, from configs alone."""

from pathlib import Path
from typing import Any

import torch

SHAPE: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
WINDOW = {"sliding_window": 7}
LOCAL = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}

OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": GPT2,
    "qwen2": {},
    "qwen3": {},
    "mistral": WINDOW,
    "gemma": {},
    "gemma3_text": {**LOCAL, "query_pre_attn_scalar": 24},
    "cohere": {"logit_scale": 0.25},
    "cohere2": LOCAL,
    "phi": {},
    "phi3": {},
    "gpt_neox": {},
    "olmo2": {},
    "olmo3": LOCAL,
    "smollm3": {},
    "nanochat": {},
    "gemma2": {**WINDOW, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "vaultgemma": {**WINDOW, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gpt_oss": {**LOCAL, "num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": None},
    "granite_swa": WINDOW,
    "flint": {},
    "mimo_v2_flash": {**WINDOW, "moe_intermediate_size": 16, "n_routed_experts": 2, "num_experts_per_tok": 1},
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "afmoe": {**WINDOW, **EXPERTS, "num_dense_layers": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "minimax": {"layer_types": ["full_attention", "linear_attention"]},
    "recurrent_gemma": {
        "attention_window_size": 7,
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
}
"""What each family has beside `SHAPE`."""

HYBRIDS = {"qwen3_next": [1], "lfm2": [1], "olmo_hybrid": [1], "minimax": [0], "recurrent_gemma": [2]}
"""The layers with attention weights, of families in which not all have them."""


def tiny(family: str, **changes: Any) -> Any:
    """A model of a family with random weights, learned sinks included, in evaluation mode."""
    import transformers

    config = transformers.AutoConfig.for_model(family, **{**SHAPE, **OWN.get(family, {}), **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "sink" in name:
            torch.nn.init.normal_(parameter)
    return model


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """A folder with a model and a tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
