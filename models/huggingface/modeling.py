"""A GPT of this project as a causal language model of transformers: forward pass, loss, generation."""

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from models.config import from_dict
from models.errors import ModelError, listed
from models.gpt import GPT
from models.huggingface.cache import TextCache
from models.huggingface.configuration import AttentionZooConfig
from models.huggingface.visible import documents_of
from models.tracing import trace

OWN = "attention_zoo"
"""What transformers calls the way in which these models attend; it cannot be replaced by another."""


class AttentionZooForCausalLM(PreTrainedModel, GenerationMixin):
    """A `models.GPT` for transformers: `generate`, `pipeline`, `Trainer` and PEFT take it like any other.

    Every pass is one of inference for mechanisms with noise or a schedule, in training, too.

    Attributes:
        network: the model itself; it attends as its plan says, whatever is asked of transformers.
    """

    config_class = AttentionZooConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config: AttentionZooConfig) -> None:
        super().__init__(config)
        self.network = GPT(from_dict(config.plan))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TextCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the next token, and the mean loss where labels are given.

        Args:
            input_ids: int [B, T].
            attention_mask: [B, P + T], 0 at padding, on either side; P positions are in the cache.
            position_ids: int [B, T], consecutive; where they begin again at 0, another text begins, which sees nothing
                of those before it.
            past_key_values: as an earlier call gave it back.
            labels: int [B, T], the tokens themselves, which are shifted here; -100 where there is no loss.
            use_cache: whether to give back a cache; under `torch.no_grad()`.
            output_hidden_states: whether to give back the embeddings, the stream after each block but the last, and
                the normalised stream after that.
            return_dict: False for a tuple.
            logits_to_keep: logits of only so many last positions; 0: of all.
            num_items_in_batch: what the sum of losses is divided by, instead of their number.
            others: nothing; what other models take (`inputs_embeds`, `head_mask`) is refused by name.

        Returns:
            Logits [B, T, vocab_size], and what was asked for.

        Raises:
            ModelError: an argument that this model cannot serve.
        """
        if unserved := sorted(
            name for name, value in others.items() if value is not None and value is not False
        ):
            raise ModelError(
                f"this model takes no {', '.join(unserved)}; give input_ids and a 2-D attention_mask"
            )
        if input_ids is None:
            raise ModelError("this model needs input_ids: it looks values up by token, too")
        cache: Any = past_key_values
        if not isinstance(cache, TextCache | None):
            raise ModelError(
                f"past_key_values must be what this model gave back, got a {type(cache).__name__}; layers of a window "
                "and of a state keep caches of their own kind"
            )
        if cache is None and use_cache:
            cache = TextCache(self.network.plan)
        documents = documents_of(attention_mask, position_ids, input_ids, 0 if cache is None else len(cache))
        if cache is not None:
            documents = cache.matching(documents, input_ids)
        states: list[Tensor] = []
        if output_hidden_states or (output_hidden_states is None and self.config.output_hidden_states):
            with trace(self.network, hidden=lambda layer, stream: states.append(stream)):
                last = self._last(input_ids, documents, cache)
            states[-1] = last
        else:
            last = self._last(input_ids, documents, cache)
        logits = self.network.logits(last[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=cache, hidden_states=tuple(states) or None
        )
        plain = return_dict is False or (return_dict is None and self.config.return_dict is False)
        return output.to_tuple() if plain else output

    def _last(self, tokens: Tensor, documents: Tensor | None, cache: TextCache | None) -> Tensor:
        return self.network.hidden(tokens, documents=documents, cache=None if cache is None else cache.kept)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        """As transformers does it, but tensors that lack or do not fit are an error, not random numbers.

        Raises:
            ModelError: names them.
        """
        opened: Any = super().from_pretrained(*args, output_loading_info=True, **options)
        model, found = opened
        problems = {
            "missing": found["missing_keys"],
            "unknown": found["unexpected_keys"],
            "of another shape": [each[0] for each in found["mismatched_keys"]],
        }
        if words := listed(problems):
            raise ModelError(f"the weights do not fit the model's plan: tensors {words}")
        return (model, found) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Embedding:  # noqa: D102
        return self.network.embedding

    def set_input_embeddings(self, value: Any) -> None:  # noqa: D102
        self.network.embedding = value

    def get_output_embeddings(self) -> nn.Linear | None:
        """The head, None where the embedding serves, which is one tensor then."""
        return self.network.head

    def set_output_embeddings(self, new_embeddings: Any) -> None:  # noqa: D102
        self.network.head = new_embeddings

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **options: Any
    ) -> nn.Embedding:
        """Refused: values are looked up by token as well, and a plan is never changed.

        Raises:
            ModelError: always, unless nothing would change.
        """
        if new_num_tokens in (None, self.config.vocab_size):
            return self.network.embedding
        raise ModelError(
            f"the vocabulary of this model has {self.config.vocab_size} tokens and cannot be resized; train with a "
            "larger model.vocab_size"
        )

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _reorder_cache(self, cache: TextCache, rows: Tensor) -> TextCache:
        cache.reorder(rows)
        return cache

    def set_attn_implementation(self, attn_implementation: str | dict[str, Any], *_: Any, **__: Any) -> None:
        """Leave the attention as it is.

        Raises:
            ModelError: another is asked for.
        """
        every = attn_implementation if isinstance(attn_implementation, dict) else {"": attn_implementation}
        for asked in every.values():
            self._check_and_adjust_attn_implementation(asked)

    def _check_and_adjust_attn_implementation(  # type: ignore[override]
        self, attn_implementation: str | None, **_: Any
    ) -> str:
        if attn_implementation in (None, OWN):
            return OWN
        raise ModelError(
            f"attn_implementation={attn_implementation!r} is not how this model was trained to attend "
            f"({self.config.plan['attention']}), and would be another model; leave it out"
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: a new model has initial weights of its own, and one that is opened has all of its weights."""

    def _set_gradient_checkpointing(  # type: ignore[override]
        self, enable: bool = True, **_: Any
    ) -> None:
        self.network.checkpointing = "full" if enable else "none"

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are computed again in the backward pass."""
        return self.network.checkpointing != "none"
