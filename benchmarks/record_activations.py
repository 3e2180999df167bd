"""`python -m benchmarks.record_activations runs/NAME`: make activations.pt, the real inputs of the suite.

What the first, a middle and the last layer of a trained model give to their attention, on the opening of the first
held-out document, in bfloat16.
"""

import argparse
from pathlib import Path

import torch

from attention.conformance.precision import ACTIVATIONS
from eval.subject import open_subject
from models import AttentionCall, ModelError

TOKENS = 120


def record(run: str | Path) -> dict[str, tuple[torch.Tensor, ...]]:
    """Queries, keys and values [1, T, H, D] by layer."""
    subject = open_subject(run)
    depth = len(subject.blocks)
    tokens = next(ids for ids in subject.token_documents if len(ids) >= TOKENS)[:TOKENS]
    layers = {}

    def keep(call: AttentionCall) -> None:
        if call.layer in (0, depth // 2, depth - 1):
            given = (call.query, call.key, call.value)
            layers[f"layer {call.layer}"] = tuple(x.bfloat16().contiguous() for x in given)

    with torch.inference_mode(), subject.trace(attention=keep):
        subject.observe(torch.tensor([tokens]))
    return layers


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_activations", description=__doc__)
    parser.add_argument("run", help="a run directory of this project")
    try:
        layers = record(parser.parse_args().run)
    except ModelError as error:
        parser.error(str(error))
    torch.save(layers, ACTIVATIONS)
    print(f"{ACTIVATIONS}: {', '.join(layers)}, {ACTIVATIONS.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
