"""A subject as a language model of the lm-eval harness.

from lm_eval import simple_evaluate
model = HarnessModel(open_subject("runs/micro-softpick"))
simple_evaluate(model=model, tasks=["arc_easy", "piqa"])        # any task of lm-eval, by its own registry
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from torch.nn import functional

from eval.analysis import progress
from eval.subject import RunSubject, Subject
from models import ModelError, generate, left_pad

GENERATED = 256
"""Tokens to generate for a task that does not say, where they leave half of the positions to the context."""

PART = 1024
"""Positions whose logits are turned into likelihoods at once."""

Encoded = tuple[tuple[str, str], list[int], list[int]]


@dataclass(frozen=True)
class Wanted:
    """A text to generate: behind this prompt, so many tokens at most, up to the first of the stop strings."""

    prompt: list[int]
    room: int
    temperature: float
    until: list[str]


class HarnessModel(TemplateLM):
    """Scores and continues text for lm-eval.

    A scored sequence begins with the beginning-of-document token where `bos` is set, and still does after a context
    that is too long has lost its beginning. Rolling likelihoods use lm-eval's disjoint windows, of which only the
    first does.
    """

    def __init__(self, subject: Subject, max_length: int | None = None, bos: bool = True) -> None:
        """Wrap a subject.

        Args:
            subject: who scores.
            max_length: positions of a forward pass; None: the training length.
            bos: whether contexts begin a document, where the model has a token for that.

        Raises:
            ModelError: more positions than the network has.
        """
        super().__init__()
        self.subject = subject
        self.max_length = max_length or subject.train_length
        if subject.max_length is not None and self.max_length > subject.max_length:
            raise ModelError(
                f"--max-length {self.max_length} exceeds the {subject.max_length} positions of {subject.name}"
            )
        self.begin = [subject.bos] if bos and subject.bos is not None else []

    @property
    def eot_token_id(self) -> int:
        """The token that stands for an empty context."""
        token = self.subject.eos if self.subject.bos is None else self.subject.bos
        if token is None:
            raise ModelError(
                f"{self.subject.name} has no token that begins a document, which empty contexts need"
            )
        return token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; begins a document unless `add_special_tokens` is False."""
        return ([] if add_special_tokens is False else self.begin) + self.subject.encode(string)

    def _loglikelihood_tokens(
        self, requests: list[Encoded], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        sequences = [self._fit(context, target) for _, context, target in requests]
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for batch in progress(self._batches(list(map(len, sequences))), f"loglikelihood {self.subject.name}"):
            targets = [len(requests[index][2]) for index in batch]
            answers = self._score([sequences[index] for index in batch], targets)
            for index, score in zip(batch, answers, strict=True):
                scores[index] = score
        return scores

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

    def _fit(self, context: list[int], target: list[int]) -> list[int]:
        """Context and target in at most `max_length` + 1 tokens, the last of which is predicted only."""
        if len(target) > self.max_length:
            raise ModelError(
                f"a text of {len(target)} tokens cannot be scored within {self.max_length} positions"
            )
        sequence = context + target
        excess = len(sequence) - (self.max_length + 1)
        if excess <= 0:
            return sequence
        kept = sequence[excess:]
        if self.begin and context[:1] == self.begin:
            kept[0] = self.begin[0]
        return kept

    def _score(self, sequences: list[list[int]], targets: list[int]) -> list[tuple[float, bool]]:
        """Log-likelihood of the last `targets` tokens of each sequence, and whether greedy decoding would give them."""
        longest = len(sequences[0])
        tokens = torch.tensor([sequence + [0] * (longest - len(sequence)) for sequence in sequences])
        logits = self.subject.logits(tokens[:, :-1])
        asked = [
            (row, place)
            for row, (sequence, count) in enumerate(zip(sequences, targets, strict=True))
            for place in range(len(sequence) - 1 - count, len(sequence) - 1)
        ]
        likelihood, greedy = [torch.empty(0)], [torch.empty(0, dtype=torch.bool)]
        for part in torch.tensor(asked, dtype=torch.long).view(-1, 2).split(PART):
            rows, places = part.T
            wanted = tokens[rows, places + 1].to(logits.device)
            picked = logits[rows, places]
            likelihood.append(-functional.cross_entropy(picked, wanted, reduction="none").cpu())
            greedy.append((picked.argmax(-1) == wanted).cpu())
        return [
            (float(chosen.double().sum()), bool(right.all()))
            for chosen, right in zip(
                torch.cat(likelihood).split(targets), torch.cat(greedy).split(targets), strict=True
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
            written = continuations(self.subject, prompts, first.room, first.temperature)
            for index, ids in zip(batch, written, strict=True):
                texts[index] = self.subject.decode(ids)
                for stop in filter(None, wanted[index].until):
                    texts[index] = texts[index].split(stop)[0]
        return texts

    def _wanted(self, context: str, options: dict[str, Any]) -> Wanted:
        """A request for generation; a context that leaves no room for it loses its beginning.

        Raises:
            ModelError: it asks for so many tokens that no context is left.
        """
        limit = options.get("max_gen_toks")
        room = min(GENERATED, self.max_length // 2) if limit is None else int(limit)
        begin = len(self.begin)
        if room + begin >= self.max_length:
            raise ModelError(f"{room} generated tokens leave no context within {self.max_length} positions")
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
        ids = self.tok_encode(context) or [self.prefix_token_id]
        prompt = ids[:begin] + ids[begin:][-(self.max_length - room - begin) :]
        until = options.get("until") or []
        return Wanted(prompt, room, temperature, [until] if isinstance(until, str) else until)

    def _alike(self, wanted: Sequence[Wanted]) -> list[list[int]]:
        """Indices of texts to generate together: greedy ones of one limit, since draws depend on their batch."""
        groups = defaultdict(list)
        for index, each in enumerate(wanted):
            groups[each.room, index if each.temperature else None].append(index)
        return [
            [group[place] for place in batch]
            for (room, _), group in groups.items()
            for batch in self._batches([len(wanted[index].prompt) + room for index in group])
        ]


def continuations(
    subject: Subject, prompts: Sequence[list[int]], room: int, temperature: float
) -> list[list[int]]:
    """What a subject writes behind each prompt: up to `room` tokens, before the end of the document.

    Runs of this project continue all prompts at once, padded on the left.
    """
    if not isinstance(subject, RunSubject):
        return [subject.generate(prompt, room, temperature) for prompt in prompts]
    tokens, documents = left_pad(prompts, device=subject.device)
    grown = generate(
        subject.network, tokens, room, temperature=temperature, stop=subject.bos, documents=documents
    )
    written = grown[:, tokens.shape[1] :].tolist()
    return [ids[: ids.index(subject.bos)] if subject.bos in ids else ids for ids in written]
