"""`python -m attention.conformance`: try every mechanism on every kernel; write the capability table."""

from pathlib import Path

from attention.command import Parser, guarded
from attention.conformance.checks import CHECKS, cases, of_this_machine, outcome
from attention.conformance.table import Outcomes, read, title, write
from attention.core.errors import AttentionError, nearest
from attention.core.machine import check_device
from attention.core.registry import names
from attention.kernels.dispatch import KERNELS


def main() -> int:
    """Run the checks.

    Returns:
        The exit status: 0, 1 where a check fails.
    """
    parser = Parser(
        prog="python -m attention.conformance",
        description="Try every mechanism and variant on every kernel; exit status 1 if any check fails.",
    )
    parser.add_argument("--mechanism", nargs="+", metavar="NAME", help="only these, with their variants")
    parser.add_argument("--kernel", nargs="+", metavar="NAME", help="only these")
    parser.add_argument(
        "--check", nargs="+", metavar="NAME", help="only these, as 'float16' or 'grouped heads'"
    )
    parser.add_argument("--device", default="cpu", help="where to run (default: cpu)")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the table; what was not tried, and what this processor lacks, stays as it is",
    )
    options = parser.parse_args()
    mechanisms = _chosen("mechanism", options.mechanism, names())
    kernels = _chosen("kernel", options.kernel, list(KERNELS))
    checks = _chosen("check", options.check, list(CHECKS))
    check_device(options.device)
    known = {} if options.write is None else _known(options.write, options.device)
    wanted = [mechanism for mechanism in cases() if mechanism.name in mechanisms]
    width = max(len(title(mechanism)) for mechanism in wanted)
    failed = False
    for mechanism in wanted:
        for kernel in kernels:
            found = {check: outcome(mechanism, kernel, check, options.device) for check in checks}
            elsewhere = known.get((title(mechanism), kernel), {})
            found |= {
                check: elsewhere[check]
                for check, result in found.items()
                if of_this_machine(result) and check in elsewhere
            }
            known[title(mechanism), kernel] = elsewhere | found
            failed |= any(result.startswith("FAILS") for result in found.values())
            print(f"{title(mechanism):{width}}  {kernel:6}  {_summary(found)}", flush=True)
    if options.write is not None:
        order = {(title(mechanism), kernel): None for mechanism in cases() for kernel in KERNELS}
        whole = {pair: known[pair] for pair in order if set(known.get(pair, ())) == set(CHECKS)}
        write(options.write, whole, options.device)
    return int(failed)


def _chosen(what: str, wanted: list[str] | None, known: list[str]) -> list[str]:
    for name in wanted or []:
        if name not in known:
            raise AttentionError(f"unknown {what} {name!r}{nearest(name, known)}")
    return wanted or known


def _known(path: Path, device: str) -> Outcomes:
    """The rows of an existing table."""
    if not path.parent.is_dir():
        raise AttentionError(f"cannot write {path}: there is no folder {path.parent}")
    if not path.exists():
        return {}
    outcomes, made_on = read(path)
    if made_on != device:
        raise AttentionError(f"{path} was made on {made_on}, not on {device}; write to another file")
    return outcomes


def _summary(found: dict[str, str]) -> str:
    failed = [f"{check} {result}" for check, result in found.items() if result.startswith("FAILS")]
    refusals = {result for result in found.values() if result.startswith("no")}
    if len(refusals) == 1 and set(found.values()) == refusals:
        return refusals.pop()
    counts = {
        "yes": sum(result == "yes" for result in found.values()),
        "exempt": sum(result.startswith("exempt") for result in found.values()),
        "no": sum(result.startswith("no") for result in found.values()),
    }
    return "; ".join([", ".join(f"{count} {word}" for word, count in counts.items() if count), *failed])


if __name__ == "__main__":
    guarded(main)
