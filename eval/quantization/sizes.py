"""Bytes on disk: of the files that hold a model's weights, and with packed matrices in their place."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from eval.quantization.weights import Quantized, packed_parameters, weight_matrices
from eval.subjects.base import Subject
from eval.subjects.run import RunSubject
from storage import checkpoint_path
from storage.checkpoint import WEIGHTS
from storage.codes import write_state


def stored(subject: Subject) -> int:
    """Bytes of the files that the weights lie in, whatever dtype they were opened in."""
    return sum(file.stat().st_size for file in _files(subject))


def packed(subject: Subject, quantized: Quantized) -> int:
    """Bytes with quantized matrices packed.

    Of a run: of the file that `python -m eval.quantization` writes. Of a model of others, which it does not write: the
    files' bytes but the matrices' share of all weights, and the packed matrices.
    """
    if not isinstance(subject, RunSubject):
        parameters = sum(parameter.numel() for parameter in subject.network.parameters())
        kept = 1 - sum(matrix.numel() for matrix in weight_matrices(subject.blocks).values()) / parameters
        return round(kept * stored(subject)) + sum(matrix.nbytes for matrix in quantized.values())
    # Runs are opened in float32 to be written.
    state: Mapping[str, Tensor] = {
        name: tensor.cpu().float() for name, tensor in subject.network.state_dict().items()
    }
    with TemporaryDirectory() as folder:
        file = Path(folder) / WEIGHTS
        write_state(file, state, packed_parameters(quantized))
        return file.stat().st_size


def _files(subject: Subject) -> list[Path]:
    if isinstance(subject, RunSubject):
        assert subject.step is not None
        return [checkpoint_path(subject.path, subject.step) / WEIGHTS]
    # Imported late: transformers takes seconds, and runs of this project do not need it.
    from eval.subjects.pretrained import weight_files

    return weight_files(subject.path)
