"""Where transformers is told: functions, masks, and three steps in the life of a model.

A name may have options, so that not every name can be listed beforehand; a mechanism may learn, so that layers must
hold what it learns before weights are loaded; and a model that was trained with a mechanism must not open as another.
transformers has no hook for these, so `register` extends four methods of `PreTrainedModel`:

    get_correct_attn_implementation    a name beginning with "zoo:" is registered; the config says it, also on disk
    set_attn_implementation            a model that would only warn, and go on as it was, refuses
    post_init                          layers of a new model hold what the mechanism learns
    _initialize_weights                it begins at the mechanism's own initial values

The config says the name as `attn_implementation`, which transformers reads when it opens a folder: with `register`
called before, the model opens with its mechanism; without, transformers refuses the name.
"""

import inspect
from functools import wraps
from typing import Any

import transformers
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, initialization
from transformers.masking_utils import sdpa_mask

from attention.core.errors import AttentionError
from attention.core.registry import names
from attention.module import Attention
from attention.transformers.calls import CHILD, attention_function, brings
from attention.transformers.masks import interval_mask
from attention.transformers.names import AUTO, PREFIX, is_ours, mechanism_of

MARK = "_attention_zoo"
RECORD = "attn_implementation"
"""The key of config.json that transformers reads as the implementation."""

TESTED = "5.23"
"""The version of transformers that this was written for."""

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def register() -> None:
    """Let transformers take `attn_implementation="zoo:..."`; a second call does nothing.

    Raises:
        AttentionError: this transformers makes its masks in another way.
    """
    if "q_offset" not in inspect.signature(sdpa_mask).parameters:
        raise AttentionError(
            f"transformers {transformers.__version__} makes masks in a way that is not known here; "
            f"pip install 'transformers>={TESTED}'"
        )
    for name in (AUTO, *(PREFIX + name for name in names())):
        _offer(name)
    for method, extended in EXTENSIONS.items():
        original = getattr(PreTrainedModel, method)
        if not hasattr(original, MARK):
            setattr(PreTrainedModel, method, extended(original))


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that ask transformers' interface for their attention."""
    return [module for module in model.modules() if _asks(type(module))]


def _offer(name: str) -> None:
    """Make one name known."""
    AttentionInterface.register(name, attention_function(name))
    AttentionMaskInterface.register(name, interval_mask)


def _named(original: Any) -> Any:
    @wraps(original)
    def get_correct_attn_implementation(
        self: PreTrainedModel, requested_attention: str | None, *args: Any, **options: Any
    ) -> str:
        if is_ours(requested_attention):
            assert requested_attention is not None
            _offer(requested_attention)
            _check_replaceable(self)
        chosen = original(self, requested_attention, *args, **options)
        _record(self.config, chosen)
        _equip(self, chosen)
        return chosen

    setattr(get_correct_attn_implementation, MARK, True)
    return get_correct_attn_implementation


def _set(original: Any) -> Any:
    @wraps(original)
    def set_attn_implementation(
        self: PreTrainedModel, attn_implementation: str | dict[str, Any], *args: Any, **options: Any
    ) -> None:
        if is_ours(attn_implementation):
            _check_replaceable(self)
            _check_attends(self, str(attn_implementation))
        original(self, attn_implementation, *args, **options)

    setattr(set_attn_implementation, MARK, True)
    return set_attn_implementation


def _made(original: Any) -> Any:
    @wraps(original)
    def post_init(self: PreTrainedModel, *args: Any, **options: Any) -> None:
        chosen = self.config._attn_implementation
        _equip(self, chosen)
        if is_ours(chosen) and self.can_generate():
            _check_attends(self, chosen)
        original(self, *args, **options)

    setattr(post_init, MARK, True)
    return post_init


def _initialised(original: Any) -> Any:
    @wraps(original)
    def _initialize_weights(self: PreTrainedModel, module: nn.Module, *args: Any, **options: Any) -> None:
        if isinstance(module, Attention):
            values = module.mechanism.initial_values(module.n_head, module.head_dim)
            for name, value in values.items():  # leaves alone what was loaded
                initialization.copy_(module.learned[name], value)
        original(self, module, *args, **options)

    setattr(_initialize_weights, MARK, True)
    return _initialize_weights


EXTENSIONS = {
    "get_correct_attn_implementation": _named,
    "set_attn_implementation": _set,
    "post_init": _made,
    "_initialize_weights": _initialised,
}
"""What each method of `PreTrainedModel` becomes."""


def _check_replaceable(model: PreTrainedModel) -> None:
    """AttentionError: its code does not ask transformers' interface."""
    if not model._can_set_attn_implementation():
        raise AttentionError(f"{type(model).__name__} does not let its attention be replaced")


def _check_attends(model: PreTrainedModel, chosen: str) -> None:
    """AttentionError: none of its layers does."""
    if not attention_layers(model):
        raise AttentionError(f"{type(model).__name__} has no layer whose attention can be {chosen}")


def _record(config: Any, chosen: str) -> None:
    """Say in the config, and so on disk, what attends; nothing where it is the model's own formula."""
    if is_ours(chosen) and chosen != AUTO:
        setattr(config, RECORD, chosen)
    else:
        vars(config).pop(RECORD, None)


def _equip(model: PreTrainedModel, chosen: str) -> None:
    """Give the layers of this config what the mechanism learns; of another mechanism of ours they keep nothing."""
    if not is_ours(chosen) or chosen == AUTO:
        return
    mechanism = mechanism_of(chosen)
    assert mechanism is not None
    for layer in attention_layers(model):
        if getattr(layer, "config", model.config) is not model.config:
            continue
        own = getattr(layer, CHILD, None)
        if isinstance(own, Attention) and own.mechanism == mechanism:
            continue
        if own is not None:
            delattr(layer, CHILD)
        if brings(layer, mechanism):
            continue
        n_head, head_dim = _heads(layer, model.config)
        made = Attention(mechanism, n_head, head_dim)
        near = next(layer.parameters(), None)
        setattr(
            layer, CHILD, (made if near is None else made.to(near.device, near.dtype)).train(layer.training)
        )


def _heads(layer: nn.Module, config: Any) -> tuple[int, int]:
    """Number and width of a layer's query heads."""
    text = config.get_text_config()
    stated = (getattr(layer, name, None) for name in HEADS)
    n_head = next((x for x in stated if isinstance(x, int)), None) or text.num_attention_heads
    head_dim = getattr(layer, "head_dim", None) or getattr(text, "head_dim", None)
    return n_head, head_dim or text.hidden_size // n_head


def _asks(layer: type[nn.Module]) -> bool:
    """Whether modules of a class ask transformers' interface for their attention."""
    code = getattr(inspect.unwrap(layer.forward), "__code__", None)
    return code is not None and {"get_interface", "ALL_ATTENTION_FUNCTIONS"} <= set(code.co_names)
