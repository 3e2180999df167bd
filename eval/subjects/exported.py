"""Exports of runs of this project (`python -m models.export`) as subjects, with the code of this checkout."""

from pathlib import Path

import torch

from eval.subjects.folder import FolderSubject
from eval.subjects.gpt import GPTSubject


class ExportedSubject(GPTSubject, FolderSubject):
    """An exported run: its network is traced as what it is, its tokenizer and held-out text are those of a folder.

    An export does not say how long the sequences of its training were; the positions of the model stand for it.
    """

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype) -> None:
        FolderSubject.__init__(self, path, device, dtype)
        self.network = self._model.network
        self.network.pieces = len(self._tokenizer)
        self.label = self.network.plan.attention
        self.max_length = self.train_length = self.network.plan.max_length
