"""Text to calibrate on: of the training split, so that nothing a model is judged by has decided how it is quantized."""

from dataclasses import replace

from eval.subjects.base import Subject
from eval.windows import Windows, cut

DOCUMENTS_PER_WINDOW = 4


def training_windows(subject: Subject, length: int, count: int) -> Windows:
    """Up to `count` windows of `length` tokens from documents spread evenly over the training text.

    Raises:
        ModelError: the training text cannot be had, or has not one window.
    """
    source, documents = subject.training_documents(DOCUMENTS_PER_WINDOW * count)
    windows = cut(subject, length, count, documents=[subject.encode(document) for document in documents])
    return replace(windows, protocol={"source": source, **windows.protocol})
