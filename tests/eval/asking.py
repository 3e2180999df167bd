"""Requests as lm-eval makes them, and likelihoods without it."""

from typing import Any

import torch
from lm_eval.api.instance import Instance

from eval.subjects.base import Subject


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def likelihood(subject: Subject, tokens: list[int], scored: int) -> float:
    return -subject.losses(torch.tensor([tokens]))[0, -scored:].double().sum().item()
