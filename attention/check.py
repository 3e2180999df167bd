"""`python -m attention.check`: say in about a minute what runs on this machine, how exact and how fast.

The page is Markdown, to be read here or pasted into a report. Compiled kernels are tried anew, whatever verdict was
kept, and the new one is kept. Exit status 1 where a kernel fails.
"""

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attention
from attention.capabilities import kernels
from attention.command import Parser, guarded
from attention.core.arguments import DTYPES, dtype_name
from attention.core.errors import AttentionError
from attention.core.inputs import example
from attention.core.machine import check_device, device_name, processor, software
from attention.core.mechanism import Mechanism
from attention.core.registry import get, names
from attention.forms.composite import Composite
from attention.kernels import proof
from attention.kernels.dense import KERNEL as DENSE
from attention.kernels.dispatch import KERNELS
from attention.kernels.kernel import Kernel, elementary, obstacle
from attention.kernels.trial import MOST, Case, Verdict, attempt
from attention.markdown import table
from attention.timing import interleaved

HEADS, HEAD_DIM, ROUNDS = 8, 64, 5
SDPA = "torch's SDPA softmax"

Found = dict[tuple[str, str, torch.dtype], Verdict | str]
"""By mechanism, kernel and dtype: what a trial found, or why there is none."""


def main() -> int:
    """Print the page, and write it where asked.

    Returns:
        The exit status: 0, 1 where a kernel fails.
    """
    parser = Parser(prog="python -m attention.check", description=__doc__)
    parser.add_argument("--device", help="where to run (default: the GPU if there is one)")
    parser.add_argument("--mechanism", nargs="+", metavar="NAME", help="these (default: one of each form)")
    dtypes = {dtype_name(dtype): dtype for dtype in DTYPES}
    usual = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", nargs="+", default=usual, choices=list(dtypes), help=f"{' '.join(usual)}")
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[512, 2048], help="what is timed; 0 for nothing"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there, too")
    options = parser.parse_args()
    device = _device(options.device)
    if options.write is not None and not options.write.parent.is_dir():
        raise AttentionError(f"cannot write {options.write}: there is no folder {options.write.parent}")
    mechanisms = [get(name) for name in options.mechanism or representatives()]
    kinds = [dtypes[name] for name in options.dtype]
    found = exactness(mechanisms, kinds, device)
    lengths = [length for length in options.lengths if length > 0]
    parts = [
        f"# What runs here: attention {attention.__version__}",
        "\n".join(f"- {name}: {fact}" for name, fact in _facts(device).items()),
        f"## Kernels on {device}",
        _kernels(found),
        "## How exact",
        f"Errors of output and gradients, as root mean squares, over those of the formula (`dense`) in the same dtype: "
        f"the largest. Up to {MOST:g} is right.",
        _exactness(found, kinds),
    ]
    if lengths:
        parts += ["## How fast", _speed(mechanisms, _timed(kinds, found), lengths, device)]
    page = "\n\n".join(parts) + "\n"
    print(page, end="")
    if options.write is not None:
        options.write.write_text(page, encoding="utf-8")
    return int(any(isinstance(x, Verdict) and x.flaw is not None for x in found.values()))


def of_each_form() -> dict[type[Mechanism], str]:
    """The first mechanism of each form by name."""
    return {get(name).form: name for name in reversed(names())}


def representatives() -> list[str]:
    """The first mechanism of each form by name, and what torch has a kernel for."""
    return sorted({*of_each_form().values(), *(name for name in names() if "sdpa" in kernels(get(name)))})


def exactness(mechanisms: Iterable[Mechanism], dtypes: Iterable[torch.dtype], device: torch.device) -> Found:
    """Try every kernel but the formula itself on every mechanism and dtype."""
    return {
        (mechanism.name, kernel.name, dtype): _tried(kernel, mechanism, dtype, device)
        for mechanism in mechanisms
        for kernel in KERNELS.values()
        for dtype in dtypes
        if kernel is not DENSE
    }


def _tried(kernel: Kernel, mechanism: Mechanism, dtype: torch.dtype, device: torch.device) -> Verdict | str:
    """The worst verdict of the parts of a mechanism, or why the kernel does not serve it."""
    inputs = example(mechanism, device=device, dtype=dtype, head_dim=HEAD_DIM)
    reason = obstacle(kernel, inputs)
    if reason is not None:
        return reason
    worst = Verdict(0.0, None)
    for part, wide, with_mass in elementary(kernel, inputs):
        case = Case(part, wide, inputs.value.device, HEAD_DIM, HEAD_DIM, 1, with_mass)
        verdict = proof.renew(kernel, case) or attempt(kernel, case)
        if verdict.flaw is not None:
            return verdict
        worst = max(worst, verdict, key=lambda verdict: verdict.ratio)
    return worst


def _facts(device: torch.device) -> dict[str, str]:
    facts = {"processor": processor()}
    if device.type == "cuda":
        gigabytes = torch.cuda.get_device_properties(device).total_memory / 2**30
        facts["GPU"] = f"{device_name(device)}, {gigabytes:.0f} GiB, {torch.cuda.device_count()} of them"
    return facts | software()


def _kernels(found: Found) -> str:
    """Each kernel with what it serves and why it does not serve the rest."""
    rows = []
    for kernel in KERNELS.values():
        of_kernel = {key: x for key, x in found.items() if key[1] == kernel.name}
        served = dict.fromkeys(name for (name, *_), x in of_kernel.items() if isinstance(x, Verdict))
        reasons = dict.fromkeys(x for x in of_kernel.values() if isinstance(x, str))
        known = ", ".join(served) or "nothing" if of_kernel else "everything: the formula"
        rows.append([f"`{kernel.name}`", kernel.summary, known, "; ".join(reasons) or "–"])
    return table(["kernel", "what it is", "runs of these", "does not run the rest because"], rows)


def _exactness(found: Found, dtypes: list[torch.dtype]) -> str:
    """Ratios by mechanism and kernel, and under them what is wrong."""
    rows, flaws = [], []
    for name, kernel in dict.fromkeys(key[:2] for key in found):
        verdicts = [found[name, kernel, dtype] for dtype in dtypes]
        if not any(isinstance(x, Verdict) for x in verdicts):
            continue
        cells = []
        for dtype, verdict in zip(dtypes, verdicts, strict=True):
            if isinstance(verdict, str):
                cells.append("–")
            elif verdict.flaw is None:
                cells.append(f"{verdict.ratio:.2f}")
            else:
                cells.append("**FAILS**")
                flaws.append(f"- `{kernel}`, {name}, {dtype_name(dtype)}: {verdict.flaw}")
        rows.append([name, get(name).form.__name__, f"`{kernel}`", *cells])
    ratios = table(["mechanism", "form", "kernel", *map(dtype_name, dtypes)], rows)
    return ratios + ("\n\n" + "\n".join(flaws) if flaws else "")


def _timed(dtypes: list[torch.dtype], found: Found) -> list[torch.dtype]:
    """Float32, and what code that was compiled here computes in: what a processor only imitates takes minutes."""
    compiled = {
        dtype
        for (name, kernel, dtype), verdict in found.items()
        if isinstance(verdict, Verdict)
        and not isinstance(get(name), Composite)
        and KERNELS[kernel].code(get(name)) is not None
    }
    return [dtype for dtype in dtypes if dtype == torch.float32 or dtype in compiled]


def _speed(
    mechanisms: list[Mechanism], dtypes: list[torch.dtype], lengths: list[int], device: torch.device
) -> str:
    """Time over SDPA's, by mechanism; a column per dtype and length."""
    columns = [(dtype, length) for dtype in dtypes for length in lengths]
    cells: dict[str, list[str]] = {name: [] for name in (SDPA, *(mechanism.name for mechanism in mechanisms))}
    for dtype, length in columns:
        runs = {SDPA: partial(_step, _sdpa, *_tensors(dtype, length, device))}
        for mechanism in mechanisms:
            call = attention.Attention(mechanism, HEADS, HEAD_DIM).to(device).eval()
            runs[mechanism.name] = partial(_step, call, *_tensors(dtype, length, device))
        served = {name: run for name, run in runs.items() if _runs(run)}
        samples = interleaved(served, ROUNDS, device)
        medians = {name: statistics.median(seconds) for name, seconds in samples.items()}
        for name, row in cells.items():
            if name not in medians or SDPA not in medians:
                row.append("–")
            elif name == SDPA:
                row.append(f"{medians[name] * 1e3:.2f} ms")
            else:
                row.append(f"{medians[name] / medians[SDPA]:.2f}")
    said = (
        f"Forward and backward, causal, 1 sequence, {HEADS} heads of {HEAD_DIM}, by the kernel that `auto` takes: time "
        f"over that of {SDPA}, medians of {ROUNDS} rounds in which all take turns. Below 1 is faster. Types that no "
        "compiled kernel computes in here are not timed."
    )
    head = ["mechanism", *(f"{dtype_name(dtype)}, {length}" for dtype, length in columns)]
    return f"{said}\n\n{table(head, ([name, *row] for name, row in cells.items()))}"


def _runs(run: Callable[[], object]) -> bool:
    """Whether a candidate runs at all: no half products on some processors, no memory."""
    try:
        run()
    except (AttentionError, RuntimeError):
        return False
    return True


def _tensors(dtype: torch.dtype, length: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(1, length, HEADS, HEAD_DIM, generator=generator) for _ in range(3))
    return [x.to(device, dtype).requires_grad_() for x in drawn]


def _step(call: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    out = call(*tensors)
    return torch.autograd.grad(out, tensors, torch.ones_like(out))


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)


def _device(wanted: str | None) -> torch.device:
    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    return torch.zeros(0, device=name).device


if __name__ == "__main__":
    guarded(main)
