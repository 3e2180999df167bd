"""Models that one would train instead of this project's, in their authors' or in the plainest way, of the same shape.

Each gives the sum of the cross-entropy of targets [B, T] after tokens [B, T].
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import Plan


class PlainBlock(nn.Module):
    """GPT-2's block: layer norms, one product for queries, keys and values, torch's attention, an MLP with GELU."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.output = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d_model] to the same."""
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class PlainGPT(nn.Module):
    """GPT-2 (Radford et al., 2019): learned positions, tied head, no dropout."""

    def __init__(self, plan: Plan, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(plan.vocab_size, plan.d_model)
        self.positions = nn.Embedding(length, plan.d_model)
        self.blocks = nn.Sequential(*(PlainBlock(plan.d_model, plan.n_head) for _ in range(plan.n_layer)))
        self.norm = nn.LayerNorm(plan.d_model)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=plan.init_std)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The summed cross-entropy."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.blocks(self.embedding(tokens) + self.positions(places)))
        return summed(functional.linear(x, self.embedding.weight), targets)


class Llama(nn.Module):
    """transformers' Llama (Touvron et al., arXiv 2302.13971) of a plan's shape, with torch's attention."""

    def __init__(self, plan: Plan, length: int) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        config = LlamaConfig(
            vocab_size=plan.vocab_size,
            hidden_size=plan.d_model,
            intermediate_size=plan.d_ff,
            num_hidden_layers=plan.n_layer,
            num_attention_heads=plan.n_head,
            num_key_value_heads=plan.n_kv_head,
            max_position_embeddings=length,
            rms_norm_eps=plan.norm_eps,
            initializer_range=plan.init_std,
            tie_word_embeddings=plan.tie_embeddings,
            use_cache=False,
        )
        config._attn_implementation = "sdpa"
        self.model: Any = LlamaForCausalLM(config)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The summed cross-entropy."""
        return summed(self.model(tokens).logits, targets)


def summed(logits: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy of targets [B, T] under logits [B, T, V], in float32."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


def missing(name: str) -> str | None:
    """Say what a peer needs that is not installed."""
    absent = PEERS.get(name) is Llama and find_spec("transformers") is None
    return "transformers is not installed: pip install -e '.[eval]'" if absent else None


PEERS: dict[str, Callable[[Plan, int], nn.Module]] = {"GPT-2 block": PlainGPT, "transformers' Llama": Llama}
"""By name: what builds one of a plan's shape for sequences of a length."""
