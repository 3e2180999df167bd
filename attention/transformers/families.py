"""Tiny random models of many families, from configs alone, to hold `zoo:auto` against each family's own eager code."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from attention.core.errors import AttentionError, nearest

WINDOW = 8
"""Of the families that have windows: shorter than the texts they are tried on."""

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WIDE = {"head_dim": 24}
WINDOWED: dict[str, Any] = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Mistral": ("Mistral", {"sliding_window": WINDOW}),
    "Qwen2": ("Qwen2", {"use_sliding_window": True, **WINDOWED}),
    "Qwen3": ("Qwen3", WIDE),
    "GPT-2": ("GPT2", {}),
    "GPT-NeoX": ("GPTNeoX", {}),
    "Phi": ("Phi", {}),
    "Phi-3": ("Phi3", {}),
    "OLMo": ("Olmo", {}),
    "OLMo 2": ("Olmo2", {}),
    "OLMo 3": ("Olmo3", WINDOWED),
    "SmolLM3": ("SmolLM3", {}),
    "NanoChat": ("NanoChat", {}),
    "StarCoder2": ("Starcoder2", {"sliding_window": WINDOW}),
    "Cohere 2": ("Cohere2", {**WINDOWED, "logit_scale": 1.0}),
    "Gemma": ("Gemma", WIDE),
    "Gemma 2": ("Gemma2", {**WIDE, **WINDOWED, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 4.0}),
    "Gemma 3": ("Gemma3Text", {**WIDE, **WINDOWED, "query_pre_attn_scalar": 16}),
    "VaultGemma": (
        "VaultGemma",
        {**WIDE, **WINDOWED, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 4.0},
    ),
    "Granite": ("Granite", {"attention_multiplier": 0.3}),
    "Granite SWA": ("GraniteSWA", {**WINDOWED, "attention_multiplier": 0.25}),
    "Granite MoE SWA": (
        "GraniteMoeSWA",
        {**WINDOWED, **EXPERTS, "num_local_experts": 4, "attention_multiplier": 0.25},
    ),
    "Flint": ("Flint", {**WINDOWED, **EXPERTS, "n_routed_experts": 4}),
    "MiMo-V2-Flash": ("MiMoV2Flash", {**WIDE, **EXPERTS, "n_routed_experts": 4, "sliding_window": WINDOW}),
    "gpt-oss": (
        "GptOss",
        {
            **WIDE,
            **WINDOWED,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "Qwen3 MoE": ("Qwen3Moe", {**WIDE, **EXPERTS}),
    "Qwen3-Next": (
        "Qwen3Next",
        {**WIDE, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 32},
    ),
    "LFM2": ("Lfm2", {"layer_types": ["conv", "full_attention"], "full_attn_idxs": [1]}),
    "DeepSeek-V3": (
        "DeepseekV3",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "first_k_dense_replace": 2,
        },
    ),
}
"""The class of the config, and what it is told beside `BASE`: at least one family for each request to an attention."""

GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def tiny(family: str, implementation: str = "eager", **changes: Any) -> Any:
    """A tiny random causal language model in eval mode, the same at each call.

    Args:
        family: one of `FAMILIES`.
        implementation: as `attn_implementation`.
        changes: of its config.

    Raises:
        AttentionError: no such family, or this transformers does not have it.
    """
    if family not in FAMILIES:
        raise AttentionError(f"unknown family {family!r}{nearest(family, FAMILIES)}")
    kind, told = FAMILIES[family]
    made: Callable[..., Any] | None = getattr(transformers, f"{kind}Config", None)
    if made is None:
        raise AttentionError(f"transformers {transformers.__version__} has no {kind}Config")
    options = {**BASE, **told, **changes}
    if kind == "GPT2":
        options = {GPT2_NAMES.get(name, name): value for name, value in options.items()}
        del options["num_key_value_heads"]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(made(**options), attn_implementation=implementation)
    with torch.no_grad():  # sinks and biases start at 0 or at nothing in some families
        for name, parameter in model.named_parameters():
            if name.endswith(("sinks", "bias")):
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model.eval()
