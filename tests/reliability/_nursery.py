"""Training runs by the hundred: a process that has imported everything forks one for each, in a second instead of ten.

The process that forks never computes: torch's threads would not outlive the fork.
"""

import faulthandler
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds after which a run counts as hanging."""

EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
}
"""What Python reports of the file system, see sys.addaudithook."""


@dataclass(frozen=True)
class Fault:
    """Something that befalls a run at its n-th file event.

    Attributes:
        event: which, counted from 1; 0: none.
        signals: each the seconds to wait before it, and its number.
        whom: "self", the first process; "other", the second; "all" of them.
        file_size: from then on no file may grow beyond so many bytes.
    """

    event: int = 0
    signals: list[tuple[float, int]] = field(default_factory=list)
    whom: str = "self"
    file_size: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How the processes of a run ended: their exit codes (negative: by which signal), what they said, file events."""

    codes: list[int]
    said: str
    complained: str
    events: int


class Nursery:
    """Forks runs; `close` ends it."""

    def __init__(self, folder: Path) -> None:
        """Keep corpora and what runs say in `folder`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RANK", "WORLD_", "LOCAL_"))
        }
        environment = kept | {
            "ATTENTION_ZOO_CACHE": str(folder / "cache"),
            "ACCELERATE_USE_CPU": "true",
            "CXX": "none",  # kernels that are not compiled are quicker for ten steps
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }
        self.environment = environment
        self._words = folder / "words"
        self._words.mkdir(parents=True)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability._nursery"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *arguments: str, fault: Fault | None = None, ranks: int = 1, beside: float = -1
    ) -> Outcome:
        """Run a command of the project to its end.

        Args:
            arguments: `train.py ...`, or `open RUN`, which opens it as the analyses do.
            fault: what befalls it.
            ranks: processes, as torchrun would start them.
            beside: seconds after which the same command is run a second time beside it, as a further outcome;
                below 0: not.
        """
        request = {
            "arguments": arguments,
            "fault": asdict(fault or Fault()),
            "ranks": ranks,
            "words": str(self._words),
            "beside": beside,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())
        said, complained = (
            "".join(
                (self._words / f"{rank}.{kind}").read_text(errors="replace") for rank in range(len(codes))
            )
            for kind in ("out", "err")
        )
        events = self._words / "events"
        return Outcome(codes, said, complained, int(events.read_text()) if events.exists() else 0)

    def close(self) -> None:
        """End the process that forks."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def serve() -> None:
    """Fork a run for each line of stdin, answer with the exit codes of its processes."""
    import torch.distributed
    import torch.utils.data  # noqa: F401

    import train  # noqa: F401
    import training.trainer
    import training.utilisation

    # How fast this machine multiplies has no part in what a run computes.
    training.utilisation.matmul_rate = lambda device, dtype: 1e11
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)
    os._exit(0)  # what was imported takes its time to go


def _run(request: dict[str, Any]) -> list[int]:
    ranks = request["ranks"]
    environment = {}
    if ranks > 1:
        environment = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        environment["MASTER_PORT"] = str(_free_port())
    words = Path(request["words"])
    for old in words.iterdir():
        old.unlink()
    children: dict[int, Child] = {}
    for rank in reversed(range(ranks)):  # the first process knows the others
        here = environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})
        children[rank] = _fork(request, here, rank, [child.pid for child in children.values()])
    if request["beside"] >= 0:
        time.sleep(request["beside"])
        children[1] = _fork(request | {"fault": asdict(Fault())}, {}, 1, [])
    codes = _wait(children, alone=request["beside"] >= 0)
    for rank, child in children.items():
        for kind, said in child.said.items():
            (words / f"{rank}.{kind}").write_bytes(said)
    return [codes[rank] for rank in sorted(codes)]


class Child:
    """A forked process, and the pipes through which it speaks: files would share what befalls it."""

    def __init__(self, pid: int, pipes: dict[str, int]) -> None:
        self.pid = pid
        self._pipes = pipes
        self.said = dict.fromkeys(pipes, b"")
        for pipe in pipes.values():
            os.set_blocking(pipe, False)

    def listen(self) -> None:
        """Take what was said since."""
        for kind, pipe in self._pipes.items():
            with suppress(BlockingIOError):
                while heard := os.read(pipe, 1 << 16):
                    self.said[kind] += heard

    def close(self) -> None:
        """Take the last words."""
        self.listen()
        for pipe in self._pipes.values():
            os.close(pipe)


def _wait(children: dict[int, Child], alone: bool) -> dict[int, int]:
    """Exit codes of all children; once one has failed, the others are ended as torchrun does it, unless `alone`."""
    codes: dict[int, int] = {}
    started, failed = time.monotonic(), None
    while len(codes) < len(children):
        for rank in children.keys() - codes.keys():
            children[rank].listen()
            pid, status = os.waitpid(children[rank].pid, os.WNOHANG)
            if pid:
                codes[rank] = os.waitstatus_to_exitcode(status)
                children[rank].close()
        now = time.monotonic()
        if failed is None and any(codes.values()) and not alone:
            failed = now
        for rank in children.keys() - codes.keys():
            if now - started > PATIENCE or (failed is not None and now - failed > 10):
                os.kill(children[rank].pid, signal.SIGKILL)
            elif failed is not None and now - failed > 1:
                os.kill(children[rank].pid, signal.SIGTERM)
        time.sleep(0.01)
    return codes


def _fork(request: dict[str, Any], environment: dict[str, str], rank: int, others: list[int]) -> Child:
    ends = {kind: os.pipe() for kind in ("out", "err")}
    if pid := os.fork():
        for _, theirs in ends.values():
            os.close(theirs)
        return Child(pid, {kind: mine for kind, (mine, _) in ends.items()})
    fault = Fault(**request["fault"])
    try:
        os.environ |= environment
        for descriptor, kind in ((1, "out"), (2, "err")):
            os.dup2(ends[kind][1], descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        faulthandler.dump_traceback_later(PATIENCE - 5)
        counter = arm(fault, others) if rank == 0 else [0]
        _obey(request["arguments"])
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if rank == 0 and fault.event == 0:
        Path(request["words"], "events").write_text(str(counter[0]))
    os._exit(code)


def _obey(arguments: list[str]) -> None:
    from common.command import guarded

    if arguments[0] == "open":
        from storage import load_run

        guarded(lambda: load_run(arguments[1]) and None)
    else:
        import train

        sys.argv = arguments
        guarded(train.main)


def arm(fault: Fault, others: list[int]) -> list[int]:
    """Have a fault befall this process; returns the count of file events, which goes on."""
    count = [0]
    main_thread = threading.get_ident()

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event in EVENTS and threading.get_ident() == main_thread and _in_a_run(event, details):
            count[0] += 1
            if count[0] == fault.event:
                _strike(fault, others)

    sys.addaudithook(watch)
    return count


def _in_a_run(event: str, details: tuple[Any, ...]) -> bool:
    """Whether an event is about a file of a run; shutil.rmtree names them relative to a descriptor."""
    path = details[0]
    relative = event in ("os.remove", "os.rmdir") and details[-1] != -1
    return relative or (isinstance(path, str | os.PathLike) and f"{os.sep}runs{os.sep}" in os.fspath(path))


def _strike(fault: Fault, others: list[int]) -> None:
    if fault.file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_size, resource.RLIM_INFINITY))
    mine = os.getpid()
    victims = {"self": [mine], "other": others, "all": [*others, mine]}[fault.whom]

    def send() -> None:
        for pause, number in fault.signals:
            time.sleep(pause)
            for victim in victims:
                with suppress(ProcessLookupError):
                    os.kill(victim, number)

    if fault.signals and fault.signals[0][0] == 0 and len(fault.signals) == 1:
        send()
    elif fault.signals:
        threading.Thread(target=send, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def victim() -> NoReturn:
    """`train.py` under torchrun, with the fault that the environment describes."""
    if os.environ["RANK"] == "0":
        arm(Fault(**json.loads(os.environ["FAULT"])), [])
    _obey(["train.py", *sys.argv[2:]])
    sys.exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["victim"]:
        victim()
    serve()
