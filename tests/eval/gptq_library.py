"""This project's GPTQ beside that of the `gptqmodel` library, on a small model in Llama's shape with random weights.

    python -m tests.eval.gptq_library

Not part of the test suite: `gptqmodel` (7.6.0 was compared) pins an older numpy, so it needs an environment of its own,
with this project's packages in it. Both get the same model, the same calibration tokens, group 64, damping 0.01 and no
reordering of inputs. Printed for every width: the share of weights that both put on the same point of their grids, and
the relative change of the logits on other tokens by either, and by round-to-nearest.
"""

import os

# The library wants one worker per file it loads; two are enough on two cores.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
# Its packing in Python serves; the one in C++ would be compiled first.
os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from eval.quantization.gptq import quantize_blocks
from eval.quantization.rounding import round_to_nearest
from eval.quantization.stream import BlockStream
from eval.quantization.weights import replaced, weight_matrices
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.windows import Windows

GROUP, DAMPING, LENGTH, WINDOWS, VOCABULARY = 64, 0.01, 128, 16, 512
WIDTHS = (4, 3, 2)


def main() -> None:
    """Compare at every width and print a line each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "llama"
        save_model(path)
        subject = open_subject(path)
        generator = torch.Generator().manual_seed(1)
        calibration, others = torch.randint(VOCABULARY, (2, WINDOWS, LENGTH), generator=generator)
        rows = [compare(path, subject, bits, calibration, others) for bits in WIDTHS]
    print("\n| bits | same point | logits, library | logits, this project | logits, round to nearest |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(row)


def compare(path: Path, subject: Subject, bits: int, calibration: Tensor, others: Tensor) -> str:
    """One row of the table."""
    matrices = weight_matrices(subject.blocks)
    full = subject.logits(others)

    def moved(logits: Tensor) -> float:
        return float((logits - full).norm() / full.norm())

    library = by_library(path, bits, calibration)
    ours = quantize_blocks(
        subject, BlockStream(subject, Windows(calibration, 0, 0, {})), bits, GROUP, DAMPING
    )
    nearest = {name: round_to_nearest(matrix, bits, GROUP) for name, matrix in matrices.items()}
    with replaced(matrices, ours):
        by_ours = moved(subject.logits(others))
    with replaced(matrices, nearest):
        by_rounding = moved(subject.logits(others))
    same = total = 0
    originals = {name: matrix.clone() for name, matrix in matrices.items()}
    for name, matrix in matrices.items():
        theirs = library[name]
        step = ours[name].step.repeat_interleave(GROUP, 1)[:, : matrix.shape[1]]
        # Steps are float16 there, so points of the same grid differ a little.
        same += int(((theirs - ours[name].weight()).abs() < 0.25 * step).sum())
        total += matrix.numel()
        matrix.copy_(theirs)
    by_theirs = moved(subject.logits(others))
    for name, matrix in matrices.items():
        matrix.copy_(originals[name])
    return f"| {bits} | {same / total:.1%} | {by_theirs:.4f} | {by_ours:.4f} | {by_rounding:.4f} |"


def by_library(path: Path, bits: int, calibration: Tensor) -> dict[str, Tensor]:
    """The weights that the library makes of the model at `path`, by the name of the layer."""
    config = QuantizeConfig(
        bits=bits,
        group_size=GROUP,
        sym=False,
        desc_act=False,
        act_group_aware=False,
        damp_percent=DAMPING,
        true_sequential=False,
        offload_to_disk=False,
    )
    quantizer: Any = GPTQModel.load(str(path), config, device="cpu", dtype=torch.float32)
    examples = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in calibration]
    quantizer.quantize(examples, batch_size=1)
    # In memory its zeros are in the convention of its file format; they are right once it has loaded them again.
    saved = str(path.with_name(f"library-{bits}"))
    quantizer.save(saved)
    loaded: Any = GPTQModel.load(saved, device="cpu", backend=BACKEND.GPTQ_TORCH)
    found = {}
    for index, block in enumerate(loaded.model.model.layers):
        for name, module in block.named_modules():
            if hasattr(module, "dequantize_weight"):
                # [inputs, outputs] there.
                found[f"{index}.{name}"] = module.dequantize_weight().float().T
    return found


def save_model(path: Path) -> None:
    """A Llama of two layers with grouped heads, and a tokenizer that is never used but asked for."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.06,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(["to be or not to be"], 300, special_tokens=["<s>"])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    ).save_pretrained(path)


if __name__ == "__main__":
    main()
