"""A subject as a language model of the lm-eval harness.

from lm_eval import simple_evaluate
model = HarnessModel(open_subject("runs/micro-softpick"))
simple_evaluate(model=model, tasks=["arc_easy", "piqa"])        # any task of lm-eval, by its own registry
"""

from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from torch import Tensor

from eval.analysis import progress
from eval.subject import Subject
from models import ModelError

GENERATED = 256
"""Tokens to generate for a task that does not say."""

Encoded = tuple[tuple[str, str], list[int], list[int]]


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
        for batch in progress(self._batches(sequences), f"loglikelihood {self.subject.name}"):
            targets = [len(requests[index][2]) for index in batch]
            answers = self._score([sequences[index] for index in batch], targets)
            for index, score in zip(batch, answers, strict=True):
                scores[index] = score
        return scores

    def _batches(self, sequences: list[list[int]]) -> list[list[int]]:
        """Indices of sequences to score together, the longest first.

        Neighbours in length share a batch, so that little is padding; under causality, padding on the right does no
        harm.
        """
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]), reverse=True)
        batches = []
        while order:
            size = self.subject.batch(len(sequences[order[0]]))
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
        longest = len(sequences[0])
        tokens = torch.tensor([sequence + [0] * (longest - len(sequence)) for sequence in sequences])
        logits = self.subject.logits(tokens[:, :-1])
        return [
            _likelihood(
                row[len(sequence) - 1 - count : len(sequence) - 1], sequence[-count:] if count else []
            )
            for row, sequence, count in zip(logits, sequences, targets, strict=True)
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
        texts = []
        for request in progress(requests, f"generate {self.subject.name}"):
            context, options = request.args
            room = int(options.get("max_gen_toks", GENERATED))
            if room >= self.max_length:
                raise ModelError(
                    f"{room} generated tokens leave no context within {self.max_length} positions"
                )
            temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
            ids = self.tok_encode(context) or [self.prefix_token_id]
            ids = (
                ids[: len(self.begin)] + ids[len(self.begin) :][-(self.max_length - room - len(self.begin)) :]
            )
            text = self.subject.decode(self.subject.generate(ids, room, temperature))
            until = options.get("until") or []
            for stop in [until] if isinstance(until, str) else until:
                text = text.split(stop)[0] if stop else text
            texts.append(text)
        return texts


def _likelihood(logits: Tensor, target: list[int]) -> tuple[float, bool]:
    """Log-likelihood of target under logits [len(target), V], and whether greedy decoding would give it."""
    wanted = torch.tensor(target, dtype=torch.long, device=logits.device)
    chosen = logits.log_softmax(-1).gather(-1, wanted[:, None])
    return float(chosen.double().sum()), bool((logits.argmax(-1) == wanted).all())
