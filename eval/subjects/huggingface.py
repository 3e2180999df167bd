"""Hugging Face causal language models as subjects.

A model computes with its own attention until a trace of its attention is opened. Then it is switched to an attention
function registered with transformers that calls `attention.attend(..., "softmax")` and reports what it was given.
Registering the function alone would lose the mask in silence (transformers builds none for implementations that it does
not know), so a mask function is registered with it. It reduces the mask, some rows at a time, to the interval of keys
that each query sees, and every such mask that arrives is compared with the one that `attend` applies; a [T, T] tensor
is never held.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from attention import CallSpec, Mechanism, attend
from attention import get as mechanism
from attention.core.masks import visibility
from common.errors import InputError
from common.hashing import file_hash, text_hash
from common.reading import read_json
from common.shapes import shown
from data import Prepared
from eval.subjects.base import AttentionReport, HiddenReport, Subject, fingerprint
from eval.subjects.texts import corpus
from models import AttentionCall, ModelError

IMPLEMENTATION = "attention_zoo"
REFUSED = {
    "softcap": "caps its scores",
    "s_aux": "has learned sinks",
    "sinks": "has learned sinks",
    "position_bias": "adds a position bias",
    "head_mask": "masks heads",
    "indices": "selects keys",
    "block_indices": "selects blocks of keys",
}
"""Requests of some models to an attention function that softmax attention with a mask cannot serve."""

SIZES = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 2**16,
    "max_position_embeddings": 2**31,
}
"""Entries that the config of every model must state, and up to which size they are believed."""

MASK_ENTRIES = 2**22
"""Entries of a mask that are looked at at once."""

_report: AttentionReport | None = None


class HuggingFaceSubject(Subject):
    """A directory with weights, config and tokenizer that transformers can open without a network."""

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype) -> None:
        weights = weight_files(path)
        network, tokenizer = _load(path, weights[0], dtype)
        config = network.config.get_text_config()
        self.name = path.resolve().name
        self.label = f"{config.model_type} softmax"
        self.path, self.step = path, None
        self.checkpoint = _sha256(weights)
        self.architecture = _architecture(network)
        positions = config.max_position_embeddings
        self.train_length = positions
        # Rotary embeddings go on beyond the training length; tables of positions do not.
        self.max_length = None if getattr(config, "rope_parameters", None) else positions
        self.vocab_size = config.vocab_size
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.tokenizer_fingerprint = _tokenizer_fingerprint(tokenizer)
        self._model = network
        self.network = network.to(device).eval().requires_grad_(False)
        self.device, self.dtype = device, dtype
        self._tokenizer: Any = tokenizer
        self._layers = config.num_hidden_layers
        # Heads are padded to a rounder size than the vocabulary's; what has no piece is never written.
        self._never = sorted(set(range(self.vocab_size)) - set(tokenizer.get_vocab().values()))

    @property
    def mechanisms(self) -> set[Mechanism]:  # noqa: D102
        return {mechanism("softmax")}

    def encode(self, text: str) -> list[int]:  # noqa: D102
        return self._tokenizer.encode(text, add_special_tokens=False)

    @property
    def begin(self) -> list[int]:  # noqa: D102
        text, plain = self._tokenizer.encode("a"), self.encode("a")
        return text[: text.index(plain[0])] if plain and plain[0] in text else []

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        return self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:  # noqa: D102
        return [self._tokenizer.decode([id]) for id in ids]

    @torch.inference_mode()
    def logits(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self._model(tokens.to(self.device), use_cache=False).logits.float()

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self._model.base_model(tokens.to(self.device), use_cache=False).last_hidden_state

    @property
    def head(self) -> Tensor:  # noqa: D102
        return self._model.get_output_embeddings().weight

    @torch.inference_mode()
    def read_out(self, states: Tensor) -> Tensor:  # noqa: D102
        return self._model.get_output_embeddings()(states).float()

    @contextmanager
    def trace(  # noqa: D102
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> Iterator[None]:
        with ExitStack() as stack:
            if attention is not None:
                stack.enter_context(self._reporting(attention))
            if hidden is not None:
                before, *after = _hidden_hooks(self.blocks, hidden)
                stack.callback(self.blocks[0].register_forward_pre_hook(before, with_kwargs=True).remove)
                for block, hook in zip(self.blocks, after, strict=True):
                    stack.callback(block.register_forward_hook(hook).remove)
            yield

    @torch.inference_mode()
    def generate(  # noqa: D102
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        prompt = torch.tensor([list(tokens)], device=self.device)
        drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        options: dict[str, Any] = {"pad_token_id": self.eos, **drawn, **sampling}
        if self._never:
            options["suppress_tokens"] = [*self._never, *options.get("suppress_tokens", [])]
        try:
            grown = self._model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, **options
            )
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{self.name} cannot generate so: {' '.join(str(error).split())[:300]}"
            ) from error
        return grown[0, len(tokens) :].tolist()

    @property
    def blocks(self) -> nn.ModuleList:  # noqa: D102
        for module in self.network.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self._layers:
                return module
        raise ModelError(f"{type(self.network).__name__} has no list of {self._layers} blocks to observe")

    def own_corpus(self) -> tuple[str, Prepared]:  # noqa: D102
        return corpus({})

    @contextmanager
    def _reporting(self, report: AttentionReport) -> Iterator[None]:
        global _report
        usual = self._model.config._attn_implementation
        self._model.set_attn_implementation(IMPLEMENTATION)
        if self._model.config._attn_implementation != IMPLEMENTATION:
            name = type(self._model).__name__
            raise ModelError(f"{name} does not let its attention be replaced, so it cannot be traced")
        _report = report
        try:
            yield
        finally:
            _report = None
            self._model.set_attn_implementation(usual)


def attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [B, H, T, D], key and value [B, Hk, S, D] to [B, T, H, D].

    Raises:
        ModelError: the model asks for what softmax attention with a causal mask and a window is not.
    """
    name = type(module).__name__
    for option, meaning in REFUSED.items():
        if others.get(option) is not None:
            raise ModelError(f"{name} {meaning} ({option}), which the attention trace cannot serve")
    if dropout:
        raise ModelError(f"{name} applies dropout {dropout}; put the model in eval mode")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise ModelError(f"{name} is not causal, which the attention trace cannot serve")
    _check_mask(name, attention_mask, query.shape[2], key.shape[2], sliding_window)
    softmax = mechanism("softmax")
    spec = CallSpec(window=sliding_window, scale=scaling)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output = attend(query, key, value, softmax, **spec.options)
    if _report is not None:
        layer = getattr(module, "layer_idx", None)
        if not isinstance(layer, int):
            raise ModelError(f"{name} does not know which layer it is (layer_idx), so it cannot be traced")
        replacement = _report(AttentionCall(layer, query, key, value, output, softmax, spec))
        output = output if replacement is None else replacement
    return output, None


def interval_mask(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, **options: Any
) -> Tensor:
    """A mask as transformers asks for it, as the intervals of visible keys: int64 [B, 1, T, 2], first and last + 1.

    Raises:
        ModelError: some query sees keys that are no interval.
    """
    options["allow_is_causal_skip"] = False
    column = torch.arange(kv_length, device=options.get("device", "cpu"))
    height = max(1, MASK_ENTRIES // (batch_size * kv_length))
    intervals = []
    for start in range(0, q_length, height):
        rows = min(height, q_length - start)
        mask = sdpa_mask(batch_size, rows, kv_length, q_offset + start, **options)
        assert mask is not None
        first = mask.to(torch.uint8).argmax(-1)
        last = first + mask.sum(-1)
        if not torch.equal(mask, (column >= first[..., None]) & (column < last[..., None])):
            raise ModelError("the model masks keys amid visible ones, which the attention trace cannot serve")
        intervals.append(torch.stack([first, last], -1))
    return torch.cat(intervals, 2)


def _check_mask(name: str, mask: Tensor | None, queries: int, keys: int, window: int | None) -> None:
    """Refuse any mask that is not the causal one with this window; None stands for the causal one."""
    if mask is None:
        if window is None or window >= keys:
            return
        raise ModelError(f"{name} has a window of {window} keys but passes no mask for it")
    expected = visibility(queries, keys, window=window, device=mask.device)
    interval = torch.stack([expected.first, expected.last], -1)
    if (
        mask.dtype != interval.dtype
        or mask.shape[-2:] != interval.shape[-2:]
        or not bool((mask == interval).all())
    ):
        raise ModelError(
            f"{name} asks for a mask other than causal with a window, which the trace cannot serve"
        )


AttentionInterface.register(IMPLEMENTATION, attention_function)
AttentionMaskInterface.register(IMPLEMENTATION, interval_mask)


def _hidden_hooks(blocks: nn.ModuleList, report: HiddenReport) -> list[Callable[..., None]]:
    def before(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        report(-1, inputs[0] if inputs else options["hidden_states"])

    def after(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            report(layer, output[0] if isinstance(output, tuple) else output)

        return hook

    return [before, *(after(layer) for layer in range(len(blocks)))]


def _load(path: Path, weights: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model and the tokenizer of a directory, which may come from anybody: nothing of it is run.

    Raises:
        ModelError: it cannot be opened, brings code of its own, or its weights are not exactly the model's.
    """
    _check_files(path)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if weights.suffix == ".gguf":
        options["gguf_file"] = weights.name
    try:
        config = transformers.AutoConfig.from_pretrained(path, **options)
        _check_sizes(path, config.get_text_config())
        opened: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
        network, found = opened
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **options)
    except InputError:
        raise
    # What transformers, tokenizers, safetensors and torch raise over damaged files has no common ancestor.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ModelError(f"{path} cannot be opened as a causal language model: {reason}") from error
    _check_weights(path, network, found)
    return network, tokenizer


def _check_files(path: Path) -> None:
    """Refuse what asks for code or weights from elsewhere."""
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).is_file() and "auto_map" in read_json(path / name, dict[str, Any]):
            raise ModelError(
                f"{path / name} asks for code of its own (auto_map), which is never run; where a class of transformers "
                "itself is meant, delete that entry"
            )
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{path} is an adapter of another model; merge it into that and save the whole")


def _check_sizes(path: Path, config: Any) -> None:
    for name, most in SIZES.items():
        value = getattr(config, name, None)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ModelError(
                f"the config of {path}: {name} must be an integer from 1 to {most}, got {shown(value)}"
            )


def _check_weights(path: Path, network: nn.Module, found: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks tensors: transformers fills them with random numbers."""
    problems = {
        "missing": found["missing_keys"],
        "unexpected": found["unexpected_keys"],
        "of another shape": [entry[0] for entry in found["mismatched_keys"]],
    }
    words = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if words:
        raise ModelError(f"the weights of {path} do not fit its config: tensors {'; '.join(words)}")
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"the weights of {path} are damaged: {name} holds values that are not finite")


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights, in a fixed order."""
    for pattern in ("*.safetensors", "pytorch_model*.bin", "*.gguf"):
        files = sorted(path.glob(pattern))
        if files:
            return files
    raise ModelError(f"{path} has a config.json but no weights (*.safetensors, pytorch_model*.bin or *.gguf)")


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def _architecture(network: Any) -> str:
    configs = {"model": network.config.to_dict(), "generation": network.generation_config.to_dict()}
    # Where the model lies and who wrote its files decide nothing; its dtype is the protocol's.
    idle = ("_name_or_path", "transformers_version", "dtype")
    return fingerprint(
        {
            which: {key: value for key, value in config.items() if key not in idle}
            for which, config in configs.items()
        }
    )


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return text_hash(repr(vocabulary))
