"""The calls of the table `attend`: each is a function of its number and the seed, and judges its own answer.

    python -m tests.reliability._calls FIRST END SEED

makes the calls number FIRST to END - 1 and prints two lines of JSON for each, one before it and one after.
"""

import faulthandler
import json
import random
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

import attention
from attention import AttentionError, Phase, RecurrentState, attend
from attention.conformance import cases
from attention.core.inputs import example
from attention.forms.chunked import Chunked
from attention.kernels import dispatch
from attention.kernels.kernel import obstacle
from tests.reliability._nonsense import ARGUMENTS, OPTIONS, SHAPES, TENSORS

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 4e-2, torch.float16: 8e-3}
"""Of the largest deviation from float64, relative to the largest right number, or EAGER times what "dense" deviates."""
EAGER = 3.0
SECONDS = 300
"""After which a call hangs."""
LONGEST_MESSAGE = 400

MECHANISMS = cases()
SLOW = ("triton",)


class WrongError(Exception):
    """What was wrong with an answer."""


@dataclass
class Call:
    """Arguments of `attend`, and how to print them."""

    mechanism: Any
    arguments: dict[str, Any]
    leaves: list[Tensor]


def kernels_for(mechanism: attention.Mechanism, dtype: torch.dtype, head_dim: int, n_head: int) -> list[str]:
    """Kernels that serve such calls, and "auto"."""
    prepared = example(mechanism, dtype=dtype, head_dim=head_dim, n_head=n_head)
    serving = [name for name, kernel in dispatch.KERNELS.items() if obstacle(kernel, prepared) is None]
    return [*(name for name in serving if name not in SLOW), "auto"]


def laid_out(tensor: Tensor, dice: random.Random) -> Tensor:
    """The same shape in some layout."""
    kind = dice.choice(["plain"] * 4 + ["heads first", "strided", "expanded heads", "offset"])
    if kind == "heads first":
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "strided":
        return tensor.repeat_interleave(2, -1)[..., ::2]
    if kind == "expanded heads":
        return tensor[:, :, :1].expand_as(tensor)
    if kind == "offset":
        return torch.cat([tensor[:, :1], tensor], 1)[:, 1:]
    return tensor


def valid(dice: random.Random, *, zero: str = "") -> Call:
    """A call that can be served, unless the mechanism has another opinion; `zero` names sizes that are 0."""
    mechanism = dice.choice(MECHANISMS)
    dtype = dice.choice([torch.float32] * 4 + [torch.bfloat16, torch.float16, torch.float64])
    batch, queries = dice.choice([1, 1, 2, 3]), dice.choice([1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 70, 130])
    keys = queries + dice.choice([0, 0, 0, 1, 5, 40])
    key_heads = dice.choice([1, 2, 3])
    heads = key_heads * dice.choice([1, 2])
    head_dim, width = dice.choice([1, 2, 3, 4, 7, 8, 16, 33, 64]), dice.choice([1, 3, 4, 8, 16, 33])
    if "B" in zero:
        batch = 0
    if "T" in zero:
        queries = 0
    if "S" in zero:
        queries = keys = 0
    if "H" in zero:
        heads = 0
    if "K" in zero:
        key_heads = 0
    if "D" in zero:
        head_dim = 0
    if "V" in zero:
        width = 0
    generator = torch.Generator().manual_seed(dice.getrandbits(32))

    def draw(*shape: int, size: float = 1.0) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) * size
        return drawn.to(dtype)

    size = dice.choice([0.1, 1.0, 1.0, 2.0])
    leaves = [
        draw(batch, queries, heads, head_dim, size=size),
        draw(batch, keys, key_heads, head_dim, size=size),
        draw(batch, keys, key_heads, width),
    ]
    arguments: dict[str, Any] = {"kernel": "auto", "causal": dice.random() < 0.8}
    if dice.random() < 0.3:
        arguments["window"] = dice.choice([1, 2, 3, 7, 64, 1000, 10**20])
    if dice.random() < 0.3:
        ids = torch.randint(-1, 3, (batch, keys), generator=generator).sort(1).values
        arguments["documents"] = ids.to(dice.choice([torch.int64, torch.int32, torch.int8]))
    if dice.random() < 0.2:
        arguments["scale"] = dice.choice([0.5, 1, 0.0, 0.01])
    if heads and key_heads and head_dim:  # what is learned must be given wherever a gradient is taken
        initial, size = mechanism.initial_values(heads, head_dim), dice.choice([0.0, 0.1])
        arguments["params"] = {
            name: x + size * torch.randn(x.shape, generator=generator) for name, x in initial.items()
        }
    if dice.random() < 0.5:
        seed = torch.tensor(dice.randrange(-(2**63), 2**63))
        arguments["phase"] = Phase(True, dice.choice([0.0, 0.3, 1.0]), seed)
    arguments |= {name: laid_out(x, dice) for name, x in zip(("query", "key", "value"), leaves, strict=True)}
    if not zero:
        arguments["kernel"] = dice.choice(kernels_for(mechanism, dtype, head_dim, 2 * heads))
    else:
        arguments["kernel"] = dice.choice(["auto", *(x for x in dispatch.KERNELS if x not in SLOW)])
    return Call(mechanism, arguments, leaves)


def differentiated(call: Call, kernel: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Output and gradients by a kernel, in another dtype where one is given."""
    arguments = dict(call.arguments, kernel=kernel)
    leaves = {}
    for name in ("query", "key", "value"):
        if _differentiable(leaf := arguments[name]):
            leaf = leaf.detach() if dtype is None else leaf.detach().to(dtype)
            leaves[name] = arguments[name] = leaf.requires_grad_()
    params = arguments.get("params")
    if isinstance(params, Mapping) and all(_differentiable(x) for x in params.values()):
        arguments["params"] = {name: x.detach().clone().requires_grad_() for name, x in params.items()}
        leaves |= arguments["params"]
    out = attend(mechanism=call.mechanism, **arguments)
    direction = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).cos().to(out)
    gradients = torch.autograd.grad((out * direction).sum(), list(leaves.values()), allow_unused=True)
    found = {"output": out.detach()}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        found[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return found


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.dtype in TOLERANCE


def judged(call: Call) -> str:
    """Run a call and compare it with the formula. WrongError: it disagrees."""
    kernel, query = call.arguments["kernel"], call.arguments["query"]
    try:
        found = differentiated(call, kernel)
    except AttentionError as error:
        check_message(error)
        if isinstance(kernel, str) and kernel in (*dispatch.KERNELS, "auto"):
            # Naming a kernel that cannot serve is a mistake; that none can serve must be the mechanism's opinion.
            try:
                differentiated(call, "auto")
            except AttentionError:
                return "refused"
            if kernel == "auto" or "cannot run" not in str(error):
                raise WrongError(f"refused, though it can be served: {error}") from error
        return "refused"
    if query.is_meta:
        if not found["output"].is_meta or found["output"].shape[:3] != query.shape[:3]:
            raise WrongError("another shape or device than the query's")
        return "right shape"
    return compare(call, found, query.dtype)


def compare(call: Call, found: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """What is to be said of an answer that is right, or that "dense" cannot give in float16 either.

    WrongError: another shape, or further from float64 than the tolerance and than "dense" is.
    """
    verdict = "right answer"
    right = differentiated(call, "dense", torch.float64)
    eager: dict[str, Tensor] | None = None
    for name, truth in right.items():
        here = found[name]
        if here.shape != truth.shape:
            raise WrongError(f"{name} is {list(here.shape)}, not {list(truth.shape)}")
        largest = max(
            (x.abs().max().item() for key, x in right.items() if x.numel() and key[:3] == name[:3]), default=0
        )
        scale = max(largest, 1e-6)
        if not truth.numel():
            continue
        error = (here.double() - truth).abs().max().item() / scale
        if error <= TOLERANCE[dtype]:
            continue
        eager = eager or differentiated(call, "dense")
        if dtype == torch.float16 and not eager[name].isfinite().all():
            verdict = "beyond float16, as in the formula"
            continue
        allowed = EAGER * (eager[name].double() - truth).abs().max().item() / scale
        if not error <= allowed:
            raise WrongError(f"{name} is off by {error:.1e}, dense by {allowed / EAGER:.1e}")
    return verdict


def check_message(error: AttentionError) -> None:
    """WrongError: not one line."""
    message = str(error)
    if "\n" in message or not message or len(message) > LONGEST_MESSAGE:
        raise WrongError(f"a message of {len(message)} characters, {message.count(chr(10)) + 1} lines")


def observed(call: Call, dice: random.Random) -> str:
    """The same question to `weights`, `row_stats` or `entropy`."""
    arguments = {x: y for x, y in call.arguments.items() if x not in ("value", "phase", "kernel", "state")}
    what = dice.choice(["weights", "row_stats", "entropy"])
    try:
        if what == "weights":
            attention.weights(mechanism=call.mechanism, **arguments)
        elif what == "row_stats":
            attention.row_stats(mechanism=call.mechanism, **arguments)
        else:
            attention.entropy(mechanism=call.mechanism, **arguments)
    except AttentionError as error:
        check_message(error)
        return "refused"
    return "served"


def right_call(dice: random.Random) -> tuple[str, Call, Callable[[], str]]:
    call = valid(dice)
    return "a valid call", call, lambda: judged(call)


def empty_call(dice: random.Random) -> tuple[str, Call, Callable[[], str]]:
    zero = dice.choice(["B", "T", "S", "V", "BV", "TV", "BSV", "H", "K", "HK", "D", "BHKD"])
    call = valid(dice, zero=zero)
    return "sizes of 0", call, lambda: judged(call) if dice.random() < 0.8 else observed(call, dice)


def spoiled_call(kind: str, table: Mapping[str, list[Any]]) -> Callable[[random.Random], Any]:
    """Calls of which one argument is something else."""

    def make(dice: random.Random) -> tuple[str, Call, Callable[[], str]]:
        call = valid(dice)
        name = dice.choice(sorted(table))
        wrong = dice.choice(table[name])
        if name in ("query", "key", "value", "documents"):
            like = call.arguments.get(name, torch.zeros(call.arguments["key"].shape[:2], dtype=torch.long))
            wrong = wrong(like)
            if name == "documents":
                call.arguments["documents"] = wrong
        if name == "mechanism":
            call.mechanism = wrong
        elif name == "params":
            names = list(call.mechanism.initial_values(2, 4)) or ["sharpness"]
            call.arguments["params"] = wrong(dice.choice(names)) if callable(wrong) else wrong
        else:
            call.arguments[name] = wrong
        return f"{kind}: {name}", call, lambda: refused_or_right(call, dice)

    return make


def moved_call(dice: random.Random) -> tuple[str, Call, Callable[[], str]]:
    """Some or all tensors are on the device without data."""
    call = valid(dice)
    call.arguments.setdefault("documents", torch.zeros(call.arguments["key"].shape[:2], dtype=torch.long))
    moved = dice.choice([["query"], ["key"], ["value"], ["documents"], ["params"], ["query", "key", "value"]])
    for name in moved:
        if name != "params":
            call.arguments[name] = call.arguments[name].to("meta")
    if moved[0] == "params" or len(moved) == 3:
        given = call.arguments.get("params") or {}
        call.arguments["params"] = {name: x.to("meta") for name, x in given.items()}
    if len(moved) == 3:
        call.arguments["documents"] = call.arguments["documents"].to("meta")
        call.arguments["kernel"] = dice.choice(["auto", "dense", "tiled"])
    return "devices", call, lambda: refused_or_right(call, dice)


def spoiled_option(dice: random.Random) -> tuple[str, Call, Callable[[], str]]:
    call = valid(dice)
    name = call.mechanism.name
    option = dice.choice([*(field.name for field in fields(call.mechanism)), "no_such_option"])
    value = dice.choice(OPTIONS)
    call.arguments["kernel"] = dice.choice(
        ["dense", "chunked" if isinstance(call.mechanism, Chunked) else "tiled"]
    )
    call.arguments.pop("params", None)

    def run() -> str:
        try:
            call.mechanism = attention.get(name, **{option: value})
        except AttentionError as error:
            check_message(error)
            return "refused"
        return judged(call) if call.arguments["query"].dtype.itemsize >= 4 else observed(call, dice)

    call.arguments["option"] = (option, value)
    described = Call(name, dict(call.arguments), call.leaves)
    del call.arguments["option"]
    return "options", described, run


def remembered_call(dice: random.Random) -> tuple[str, Call, Callable[[], str]]:
    """A text in two parts through a memory, the second part perhaps another kind of call."""
    call = valid(dice)
    call.mechanism = dice.choice([x for x in MECHANISMS if isinstance(x, Chunked)])
    call.arguments |= {"causal": True, "kernel": "auto"}
    for name in ("window", "scale"):
        call.arguments.pop(name, None)
    call.arguments["query"] = call.arguments["key"].repeat_interleave(dice.choice([1, 2]), 2)
    heads, head_dim = call.arguments["query"].shape[2:]
    call.arguments["params"] = (
        dict(call.mechanism.initial_values(heads, head_dim)) if heads and head_dim else {}
    )
    keys = call.arguments["key"].shape[1]
    cut, spoil = (
        dice.randrange(keys + 1),
        dice.choice([None, None, "dtype", "batch", "documents", "mechanism"]),
    )

    def part(place: slice) -> dict[str, Any]:
        named = {name: call.arguments[name][:, place] for name in ("query", "key", "value")}
        ids = call.arguments.get("documents")
        return call.arguments | named | ({} if ids is None else {"documents": ids[:, place]})

    def run() -> str:
        state, second = RecurrentState(), part(slice(cut, None))
        if spoil == "dtype":
            second |= {name: second[name].double().float() for name in ("query", "key", "value")}
        elif spoil == "batch":
            second |= {name: second[name].repeat(2, 1, 1, 1) for name in ("query", "key", "value")}
        elif spoil == "documents":
            second["documents"] = torch.zeros(second["key"].shape[:2], dtype=torch.long)
        mechanism = attention.get("simrf", seed=5) if spoil == "mechanism" else call.mechanism
        try:
            with torch.no_grad():
                outs = [attend(mechanism=call.mechanism, state=state, **part(slice(cut)))]
                outs.append(attend(mechanism=mechanism, state=state, **second))
        except AttentionError as error:
            check_message(error)
            return "refused"
        if spoil is None:
            call.arguments["query"] = call.arguments["query"].detach()
            whole = differentiated(call, "auto")["output"]
            error = (
                (torch.cat(outs, 1).double() - whole.double()).abs().max().item() if whole.numel() else 0.0
            )
            if not error <= 30 * TOLERANCE[whole.dtype] * max(1.0, whole.abs().max().item()):
                raise WrongError(f"parts differ from the whole by {error:.1e}")
        return "right answer"

    return "a memory", call, run


def refused_or_right(call: Call, dice: random.Random) -> str:
    return judged(call) if dice.random() < 0.7 else observed(call, dice)


MAKERS: list[tuple[int, Callable[[random.Random], Any]]] = [
    (40, right_call),
    (15, empty_call),
    (15, spoiled_call("wrong types or values", ARGUMENTS)),
    (10, spoiled_call("wrong tensors", TENSORS)),
    (6, spoiled_call("wrong shapes", SHAPES)),
    (4, moved_call),
    (6, spoiled_option),
    (4, remembered_call),
]


def described(number: int, seed: int, call: Call) -> str:
    """One line that says which call it is."""

    def show(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"{value.dtype}{'[nested]' if value.is_nested else list(value.shape)}"
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{x}: {show(y)}" for x, y in value.items()) + "}"
        return " ".join(attention.core.arguments.shown(value).split())[:60]

    shown = ", ".join(f"{name}={show(value)}" for name, value in call.arguments.items())
    return f"call {number} of seed {seed}: {show(call.mechanism)} {shown}"[:600]


def main(first: int, end: int, seed: int) -> None:
    """Make calls and tell of each before and after it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for number in range(first, end):
        dice = random.Random(f"{seed}/{number}")
        weights, makers = zip(*MAKERS, strict=True)
        kind, call, run = dice.choices(makers, weights)[0](dice)
        print(json.dumps({"begun": number, "kind": kind, "case": described(number, seed, call)}), flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        outcome = failure = ""
        try:
            outcome = run()
        except WrongError as error:
            failure = str(error)
        except Exception as error:
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"outcome": outcome, "failure": failure}), flush=True)


if __name__ == "__main__":
    main(*(int(x) for x in sys.argv[1:4]))
