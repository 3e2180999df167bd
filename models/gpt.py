"""The language model: embedding, blocks, final norm, head."""

import math

from torch import Tensor, nn
from torch.nn import functional

from attention import INFERENCE, Phase
from models.block import Block, Observer
from models.cache import KVCache
from models.config import ModelConfig
from models.errors import ModelError
from models.loss import token_losses
from models.norms import norm
from models.plan import Plan, resolve
from models.readout import Readout
from models.rope import Rope


class GPT(nn.Module):
    """A decoder-only transformer whose layers attend as its config says.

    Attributes:
        plan: the config with every choice made.
        layers: the blocks; `layers[i].attention.mixer` is where layer i mixes values.
        head: the output projection, or None where the embedding serves (tied). One tensor, saved once.
        checkpointing: what the backward pass computes again, one of the choices of `models.recompute`; "none" at first.
        readout: what the head's products go through to become logits.
        rope: the rotary frequencies, None for a model without; an evaluation may put rescaled ones here.
        pieces: how many ids stand for text, the tokenizer's vocabulary; those above, which pad the head to a rounder
            size, are part of every softmax and never drawn. All of them until `load_run` knows the tokenizer.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build and initialise a model.

        Raises:
            ModelError, AttentionError: as `models.plan.resolve`.
        """
        super().__init__()
        self.plan: Plan = resolve(config)
        self.pieces = self.plan.vocab_size
        self.checkpointing = "none"
        self.embedding = nn.Embedding(self.plan.vocab_size, self.plan.d_model)
        self.layers = nn.ModuleList(Block(self.plan, layer) for layer in self.plan.layers)
        self.rope: Rope | None = None
        if self.plan.position == "rope":
            self.rope = Rope(self.plan.head_dim, self.plan.rope_theta)
        self.norm = norm(self.plan, self.plan.d_model)
        self.head = None
        if not self.plan.tie_embeddings:
            self.head = nn.Linear(self.plan.d_model, self.plan.vocab_size, bias=False)
        self.readout = Readout.of(self.plan)
        self._initialise()

    def forward(
        self,
        tokens: Tensor,
        *,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        cache: KVCache | None = None,
        phase: Phase = INFERENCE,
    ) -> Tensor:
        """Logits, or the loss of each token where targets are given.

        Args:
            tokens: int [B, T].
            targets: int [B, T], -100 where a position carries no loss.
            documents: int [B, T]; a run of equal ids is one document and sees nothing else, -1 is padding.
            cache: earlier positions, which the new ones follow; extended by this call.
            phase: when in training the call happens, for mechanisms with noise or a schedule. Its seed is that of the
                step, below 2^40; layers differ by themselves.

        Returns:
            Logits [B, T, vocab_size] in the compute dtype, or with targets the cross-entropy per token
            [B, T] in float32 nats, 0 where ignored.

        Raises:
            ModelError: wrong shapes, or positions beyond `plan.max_length`.
        """
        if targets is not None:
            self._check_shape("targets", targets, tokens)
        x = self.hidden(tokens, documents=documents, cache=cache, phase=phase)
        if targets is None:
            return self.logits(x)
        return token_losses(x, targets, self.logits, self.plan.vocab_size)

    def hidden(
        self,
        tokens: Tensor,
        *,
        documents: Tensor | None = None,
        cache: KVCache | None = None,
        phase: Phase = INFERENCE,
        observe: Observer | None = None,
    ) -> Tensor:
        """What the head reads: the normalised residual stream [B, T, d_model]; arguments as for `forward`.

        `observe` is called with the `AttentionCall` of each layer, in order.
        """
        start = 0 if cache is None else cache.length
        self._check(tokens, documents, start)
        x = self.embedding(tokens)
        rotation = None if self.rope is None else self.rope.rotations(start, tokens.shape[1], like=x)
        if cache is not None:
            documents = cache.begin(tokens, documents)
        for index, layer in enumerate(self.layers):
            kept = None if cache is None else cache.layers[index]
            x = layer(x, tokens, rotation, documents, kept, phase, observe, self.checkpointing)
        if cache is not None:
            cache.end(tokens)
        return self.norm(x)

    def logits(self, x: Tensor) -> Tensor:
        """The head: normalised residual [..., d_model] to [..., vocab_size], whose softmax is the prediction."""
        return self.readout(
            functional.linear(x, self.embedding.weight) if self.head is None else self.head(x)
        )

    @property
    def head_weight(self) -> Tensor:
        """The matrix [vocab_size, d_model] of the head: its own, or the embedding's where they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def parameter_count(self) -> int:
        """Number of trained scalars; a tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of one training step per token, at sequences of `length` tokens.

        6 N + sum over layers of 6 n_head (head_dim + value_dim) n. N counts the weights that multiply every token: all
        matrices and the head, not the lookups of embeddings. n is the mean number of keys a query sees:
        (length + 1) / 2 under causality, fewer under a window. 6 is 2 (multiply, add) x 3 (one product
        forward, two backward); attention has two products, scores and values. Norms, pointwise functions,
        recomputation and document masks do not count: a second sweep over the keys is no more work done.
        """
        weights = sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))
        if self.head is None:
            weights += self.embedding.weight.numel()
        width = self.plan.n_head * (self.plan.head_dim + self.plan.value_dim)
        keys = sum(_mean_visible(length, layer.window) for layer in self.plan.layers)
        return 6 * (weights + width * keys)

    def _check(self, tokens: Tensor, documents: Tensor | None, start: int) -> None:
        if tokens.dim() != 2 or tokens.is_floating_point() or tokens.shape[1] == 0:
            raise ModelError(
                f"tokens must be integers [batch, length], got {tokens.dtype} {list(tokens.shape)}"
            )
        if documents is not None:
            self._check_shape("documents", documents, tokens)
        if start + tokens.shape[1] > self.plan.max_length:
            raise ModelError(
                f"{start + tokens.shape[1]} positions exceed max_length {self.plan.max_length}; "
                "shorten the input or build the model with a larger max_length"
            )

    @staticmethod
    def _check_shape(name: str, tensor: Tensor, tokens: Tensor) -> None:
        if tensor.shape != tokens.shape:
            shapes = f"{list(tokens.shape)}, got {list(tensor.shape)}"
            raise ModelError(f"{name} must have the shape of tokens {shapes}")

    def _initialise(self) -> None:
        """N(0, init_std); less by sqrt(2 n_layer) for the projections that add up in the residual stream."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                into_residual = name.endswith(("attention.output", "mlp.down"))
                shrink = math.sqrt(2 * self.plan.n_layer) if into_residual else 1.0
                nn.init.normal_(module.weight, std=self.plan.init_std / shrink)


def _mean_visible(length: int, window: int | None) -> float:
    """Mean over a causal sequence of the number of keys in sight."""
    window = min(length, window or length)
    return window * (2 * length - window + 1) / (2 * length)
