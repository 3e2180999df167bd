"""A subject as a language model of the lm-eval harness.

from lm_eval import simple_evaluate
model = HarnessModel(open_subject("runs/micro-softpick"))
simple_evaluate(model=model, tasks=["arc_easy", "piqa"])        # any task of lm-eval, by its own registry
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from torch.nn import functional

from common.shapes import checked
from eval.subjects.base import Subject
from eval.subjects.gpt import GPTSubject
from eval.terminal import progress
from models import ModelError, generate, left_pad
from models.choice import Choice

GENERATED = 256
"""Tokens to generate for a task that does not say, where they leave half of the positions to the context."""

SEEDS = 2**62
"""Seeds of drawn texts lie below this number."""

WRITER = "model"
"""Entry of a cache of lm-eval, beside the answers, that says whose they are."""

PART = 1024
"""Positions whose logits are turned into likelihoods at once."""

Encoded = tuple[tuple[str, str], list[int], list[int]]


LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the number of tokens to generate; of several that a task gives, lm-eval takes the first of these."""


CHOICES = {option.name for option in fields(Choice)}
"""Options of drawing that runs of this project know."""


class Asked(TypedDict, total=False):
    """What tasks say of generation, by the names of transformers; other options go to the subject as they are."""

    until: str | list[str]
    max_gen_toks: int
    max_new_tokens: int
    max_tokens: int
    max_completion_tokens: int
    max_length: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    top_n_sigma: float


@dataclass(frozen=True)
class Wanted:
    """A text to generate: behind this prompt, so many tokens at most, up to the first of the stop strings."""

    prompt: list[int]
    room: int
    until: list[str]
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A sequence of tokens, of which those at its end, so many, are asked for."""

    tokens: tuple[int, ...]
    count: int


class HarnessModel(TemplateLM):
    """Scores and continues text for lm-eval.

    It scores what lm-eval's own class for Hugging Face models scores, with three exceptions, which docs/harness.md
    gives reasons for: a context that is too long keeps the token that begins a document; rolling likelihoods leave that
    token itself out; and a continuation whose first characters the tokenizer joins to the context is encoded by itself.

    Attributes:
        merged: how many continuations were joined to their context so far.
    """

    def __init__(self, subject: Subject, max_length: int | None = None, bos: bool | None = None) -> None:
        """Wrap a subject.

        Args:
            subject: who scores.
            max_length: positions of a forward pass; None: the training length.
            bos: whether contexts begin with the token that begins a document; None: as the tokenizer does by itself.

        Raises:
            ModelError: no position, or more than the network has.
        """
        super().__init__()
        self.subject = subject
        self.max_length = subject.train_length if max_length is None else max_length
        if self.max_length < 1:
            raise ModelError(f"--max-length must be at least 1 position, got {self.max_length}")
        if subject.max_length is not None and self.max_length > subject.max_length:
            raise ModelError(
                f"--max-length {self.max_length} exceeds the {subject.max_length} positions of {subject.name}"
            )
        given = [] if subject.bos is None or not bos else [subject.bos]
        self.begin = subject.begin if bos is None else given
        self.merged = 0

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take a cache of lm-eval (`use_cache`), which knows answers by their questions alone, whoever gave them.

        Raises:
            ModelError: it holds answers of another model, or of this one by other settings.
        """
        answers = cache_hook.dbdict
        if answers is not None:
            subject = self.subject
            own: list[object] = [subject.checkpoint, subject.architecture, subject.tokenizer_fingerprint]
            own += [str(subject.dtype), self.max_length, self.begin]
            if not answers:
                answers[WRITER] = own
            elif answers.get(WRITER) != own:
                raise ModelError(
                    f"the cache {answers.filename} holds answers of another model or of other settings; name another"
                )
        super().set_cache_hook(cache_hook)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self._token(self.subject.eos, self.subject.bos)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context."""
        return self._token(self.subject.bos, self.subject.eos)

    def _token(self, *choice: int | None) -> int:
        for token in choice:
            if token is not None:
                return token
        raise ModelError(
            f"{self.subject.name} has no token that begins or ends a document, which empty contexts need"
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; they begin a document unless `add_special_tokens` is False or the text does so itself."""
        ids = self.subject.encode(string)
        if add_special_tokens is False or ids[: len(self.begin)] == self.begin:
            return ids
        return self.begin + ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation behind its context, and whether greedy decoding would write it.

        Raises:
            ModelError: a continuation is empty: its likelihood of 1 would win against every other choice.
        """
        for request in requests:
            context, continuation = request.args
            if not continuation:
                raise ModelError(f"a task asks how likely an empty text is behind {context[-40:]!r}")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of a context and of what is scored behind it.

        White space at the end of a context counts as the beginning of the continuation. Where the tokens of the
        context alone are no beginning of those of the whole text, the tokenizer has joined the two: what would be left
        behind the context is then a part of the continuation, or nothing.
        """
        stripped = context.rstrip()
        rest = context[len(stripped) :] + continuation
        before, whole = self.tok_encode(stripped), self.tok_encode(stripped + rest)
        after = whole[len(before) :]
        if whole[: len(before)] != before or not after:
            self.merged += 1
            after = self.tok_encode(rest, add_special_tokens=False)
        return before or [self.prefix_token_id], after

    def _loglikelihood_tokens(
        self, requests: list[Encoded], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        for (context_text, text), context, target in requests:
            if not context or not target:
                raise ModelError(f"no token of {text[:40]!r} is left to score behind {context_text[-40:]!r}")
        asked = [Scored(self._fit(context, target), len(target)) for _, context, target in requests]
        # Tasks ask for the same more than once: an ending that several questions share is scored without each.
        different = list(dict.fromkeys(asked))
        scores: dict[Scored, tuple[float, bool]] = {}
        lengths = [len(each.tokens) for each in different]
        for batch in progress(self._batches(lengths), f"loglikelihood {self.subject.name}"):
            members = [different[index] for index in batch]
            scores |= zip(members, self._score(members), strict=True)
        return [scores[each] for each in asked]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of sequences of these lengths to compute together, the longest first.

        Neighbours in length share a batch, so that little is padding; under causality, padding on the right does no
        harm.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        batches = []
        while order:
            size = self.subject.batch(lengths[order[0]])
            batches.append(order[:size])
            order = order[size:]
        return batches

    def _fit(self, context: list[int], target: list[int]) -> tuple[int, ...]:
        """Context and target in at most `max_length` + 1 tokens, the last of which is predicted only."""
        if len(target) > self.max_length:
            raise ModelError(
                f"a text of {len(target)} tokens cannot be scored within {self.max_length} positions"
            )
        sequence = context + target
        excess = len(sequence) - (self.max_length + 1)
        kept = sequence[max(0, excess) :]
        if excess > 0 and self.begin and context[:1] == self.begin:
            kept[0] = self.begin[0]
        return tuple(kept)

    def _score(self, batch: Sequence[Scored]) -> list[tuple[float, bool]]:
        """Log-likelihood of what each sequence ends with, and whether greedy decoding would give it."""
        longest = len(batch[0].tokens)
        tokens = torch.tensor([each.tokens + (0,) * (longest - len(each.tokens)) for each in batch])
        rows, places = torch.tensor(
            [
                (row, place)
                for row, each in enumerate(batch)
                for place in range(len(each.tokens) - 1 - each.count, len(each.tokens) - 1)
            ]
        ).T
        logits = self.subject.logits(tokens[:, :-1], (rows, places))
        wanted = tokens[rows, places + 1].to(logits.device)
        likelihood, greedy = [], []
        for picked, right in zip(logits.split(PART), wanted.split(PART), strict=True):
            likelihood.append(-functional.cross_entropy(picked, right, reduction="none").cpu())
            greedy.append((picked.argmax(-1) == right).cpu())
        counts = [each.count for each in batch]
        return [
            (float(chosen.double().sum()), bool(right.all()))
            for chosen, right in zip(
                torch.cat(likelihood).split(counts), torch.cat(greedy).split(counts), strict=True
            )
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Sum of the log-likelihoods of all tokens of each text."""
        owners, windows = [], []
        for owner, request in enumerate(requests):
            (text,) = request.args
            ids = self.tok_encode(text, add_special_tokens=False)
            for context, target in utils.get_rolling_token_windows(
                ids, self.prefix_token_id, self.max_length, 1
            ):
                owners.append(owner)
                windows.append((("", text), *utils.make_disjoint_window((context, target))))
        totals = [0.0] * len(requests)
        for owner, (likelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each text until a stop string, the end of the document, or the task's limit."""
        wanted = [self._wanted(*request.args) for request in requests]
        texts = [""] * len(wanted)
        for batch in progress(self._alike(wanted), f"generate {self.subject.name}"):
            first, prompts = wanted[batch[0]], [wanted[index].prompt for index in batch]
            written = continuations(self.subject, prompts, first.room, first.sampling)
            for index, ids in zip(batch, written, strict=True):
                texts[index] = self.subject.decode(ids)
                for stop in filter(None, wanted[index].until):
                    texts[index] = texts[index].split(stop)[0]
        return texts

    def _wanted(self, context: str, options: Mapping[str, Any]) -> Wanted:
        """A request for generation; a context that leaves no room for it loses its beginning.

        Raises:
            ModelError: it asks for so many tokens that no context is left, or for what cannot be done.
            InputError: an option is of another type.
        """
        asked = {name: value for name, value in options.items() if value is not None}
        checked(asked, Asked, "generation_kwargs")
        limits = [asked.pop(name) for name in LIMITS if name in asked]
        room = limits[0] if limits else min(GENERATED, self.max_length // 2)
        begin = len(self.begin)
        if not 0 < room < self.max_length - begin:
            raise ModelError(f"{room} generated tokens leave no context within {self.max_length} positions")
        until = asked.pop("until", [])
        ids = self.tok_encode(context) or [self.prefix_token_id]
        prompt = ids[:begin] + ids[begin:][-(self.max_length - room - begin) :]
        if "max_length" in asked:  # of prompt and text together
            room = min(room, asked.pop("max_length") - len(prompt))
            if room < 1:
                raise ModelError(f"max_length leaves no room behind a prompt of {len(prompt)} tokens")
        return Wanted(prompt, room, [until] if isinstance(until, str) else list(until), _sampling(asked))

    def _alike(self, wanted: Sequence[Wanted]) -> list[list[int]]:
        """Indices of texts to generate together: greedy ones of one limit, since draws depend on their batch."""
        groups = defaultdict(list)
        for index, each in enumerate(wanted):
            groups[each.room, index if each.sampling else None].append(index)
        return [
            [group[place] for place in batch]
            for (room, _), group in groups.items()
            for batch in self._batches([len(wanted[index].prompt) + room for index in group])
        ]


def _sampling(asked: dict[str, Any]) -> dict[str, Any]:
    """Options of drawing; none for greedy decoding, which is the default, `do_sample=False` and a temperature of 0."""
    temperature = asked.pop("temperature", 0.0)
    drawn = asked.pop("do_sample", temperature > 0)
    if not drawn:
        return {name: value for name, value in asked.items() if name not in CHOICES}
    if temperature <= 0:
        raise ModelError("do_sample needs a temperature above 0")
    return {"temperature": temperature, **asked}


def continuations(
    subject: Subject, prompts: Sequence[list[int]], room: int, sampling: Mapping[str, Any]
) -> list[list[int]]:
    """The text that a subject writes behind each prompt: up to `room` tokens, before the end of the document.

    Models of this project continue all prompts at once, padded on the left. Each call draws anew from torch's
    generator, as those of transformers do: a task that repeats a request gets several texts, and lm-eval's seed gives
    them again.

    Args:
        subject: who writes.
        prompts: token ids.
        room: tokens to write at most.
        sampling: further arguments of the subject's `generate`; none of them is greedy decoding.

    Raises:
        ModelError: the subject does not know such an argument.
    """
    if not isinstance(subject, GPTSubject):
        return [subject.generate(prompt, room, **sampling) for prompt in prompts]
    if unknown := sampling.keys() - CHOICES:
        known = ", ".join(sorted(CHOICES))
        raise ModelError(f"models of this project cannot generate with {min(unknown)!r}; they know {known}")
    tokens, documents = left_pad(prompts, device=subject.device)
    options = {"temperature": 0.0, "seed": int(torch.randint(SEEDS, ())), **sampling}
    grown = generate(subject.network, tokens, room, stop=subject.bos, documents=documents, **options)
    written = grown[:, tokens.shape[1] :].tolist()
    return [ids[: ids.index(subject.bos)] if subject.bos in ids else ids for ids in written]
