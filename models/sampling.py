"""Drawing text from a model: greedy, by temperature, among the likeliest tokens; one prompt or a batch of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from models.cache import KVCache
from models.choice import Choice, check_number
from models.errors import ModelError
from models.gpt import GPT
from models.step import Step, compiled, following


def generate(
    model: GPT,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    top_n_sigma: float | None = None,
    seed: int = 0,
    stop: int | None = None,
    documents: Tensor | None = None,
    compile_step: bool = False,
) -> Tensor:
    """Prompts and their continuations, int64 [B, T + N]; N < max_new_tokens only where every row has stopped.

    Args and errors as in `stream`.
    """
    steps = stream(
        model,
        tokens,
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        top_n_sigma=top_n_sigma,
        seed=seed,
        stop=stop,
        documents=documents,
        compile_step=compile_step,
    )
    return torch.cat([tokens, *(step[:, None] for step in steps)], dim=1)


def stream(
    model: GPT,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    top_n_sigma: float | None = None,
    seed: int = 0,
    stop: int | None = None,
    documents: Tensor | None = None,
    compile_step: bool = False,
) -> Iterator[Tensor]:
    """Yield one token per row and step, int64 [B], as soon as it is drawn.

    The same arguments give the same tokens. With a temperature of 0 the most likely token is taken, and neither
    the seed nor what keeps tokens matters. A token is drawn among those that all of the arguments keep.

    Args:
        model: its dtype and device are used.
        tokens: int64 [B, T], T >= 1. For prompts of different lengths see `left_pad`.
        max_new_tokens: at least 1; T + max_new_tokens must fit in `config.max_length`.
        temperature: 0 or more.
        top_k: keep only the k most likely tokens.
        top_p: of those, keep the smallest set whose probability reaches p.
        min_p: keep tokens at least p times as likely as the likeliest (Nguyen et al., arXiv 2407.01082).
        top_n_sigma: keep tokens whose logit is at most n standard deviations of all logits below the largest, whatever
            the temperature (Tang et al., arXiv 2411.07641).
        seed: of the random draws.
        stop: a token id that ends a row, the beginning-of-document token for the end of the document; the row then
            repeats it until all have ended.
        documents: int64 [B, T], -1 at padding, 0 elsewhere, as `left_pad` makes them.
        compile_step: compute every token but the first by `models.step.compiled`, which pays for long texts and many.

    Raises:
        ModelError: before anything is computed, an argument out of range; later, logits that are not finite.
    """
    choice = Choice(temperature, top_k, top_p, min_p, top_n_sigma)
    choice.check(model.pieces)
    _check(model, tokens, max_new_tokens, seed, stop, documents)
    return _steps(model, tokens, max_new_tokens, choice, seed, stop, documents, compile_step)


def left_pad(
    prompts: Sequence[Sequence[int]], *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Prompts of any lengths as tokens [B, T] that end together, and documents [B, T], -1 at the padding.

    Raises:
        ModelError: no prompt, or an empty one.
    """
    if not prompts or not all(prompts):
        raise ModelError("every prompt needs at least one token")
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    tokens = [[0] * missing + list(prompt) for missing, prompt in zip(padding, prompts, strict=True)]
    documents = [[-1] * missing + [0] * (longest - missing) for missing in padding]
    return torch.tensor(tokens, device=device), torch.tensor(documents, device=device)


def readable(
    decode: Callable[[list[int]], str], prompt: Sequence[int], tokens: Iterable[int]
) -> Iterator[str]:
    """The text of the prompt, then what each token adds; a character waits until all its bytes are there."""
    ids = list(prompt)
    shown = decode(ids)
    yield shown
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    yield decode(ids)[len(shown) :]


@torch.no_grad()
def _steps(
    model: GPT,
    tokens: Tensor,
    max_new_tokens: int,
    choice: Choice,
    seed: int,
    stop: int | None,
    documents: Tensor | None,
    compile_step: bool,
) -> Iterator[Tensor]:
    # Drawn on the CPU, so that a seed means the same on every device.
    generator = torch.Generator().manual_seed(seed)
    cache = KVCache(model.plan, room=tokens.shape[1] + max_new_tokens)
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    step: Step = following
    for _ in range(max_new_tokens):
        logits = step(model, tokens, documents, cache).cpu()
        if not logits.isfinite().all():
            raise ModelError(
                "the model's logits are not finite: its weights are damaged or its training diverged"
            )
        drawn = choice.draw(logits, generator)
        if stop is not None:
            drawn = drawn.masked_fill(ended, stop)
            ended |= drawn == stop
        yield drawn.to(tokens.device)
        if stop is not None and ended.all():
            return
        tokens = drawn[:, None].to(tokens.device)
        documents = None if documents is None else documents[:, -1:]
        step = compiled() if compile_step else following


def _check(
    model: GPT,
    tokens: Tensor,
    max_new_tokens: int,
    seed: int,
    stop: int | None,
    documents: Tensor | None,
) -> None:
    if tokens.dim() != 2 or tokens.is_floating_point() or tokens.numel() == 0:
        raise ModelError(f"the prompt must be at least one token, [batch, length], got {list(tokens.shape)}")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < model.pieces:
        raise ModelError(f"the prompt has token ids outside the vocabulary 0..{model.pieces - 1}")
    for name, number in (("max_new_tokens", max_new_tokens), ("seed", seed), ("stop", stop)):
        check_number(name, number, whole=True)
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if tokens.shape[1] + max_new_tokens > model.plan.max_length:
        raise ModelError(
            f"a prompt of {tokens.shape[1]} tokens and {max_new_tokens} new ones exceed max_length "
            f"{model.plan.max_length}"
        )
    if not 0 <= seed < 2**63:
        raise ModelError(f"seed must be in 0..2^63 - 1, got {seed}")
    if stop is not None and not 0 <= stop < model.pieces:
        raise ModelError(f"stop must be a token id in 0..{model.pieces - 1}, got {stop}")
    if documents is not None and (documents.shape != tokens.shape or bool((documents[:, -1] < 0).any())):
        raise ModelError("documents must have the shape of tokens and end with a token, not with padding")
