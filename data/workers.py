"""Work on batches in processes of their own: in order, a few batches ahead, the same results for any number of them.

A worker is `python -m data.workers`: a fresh interpreter that reads one task, a picklable callable, then one batch
after another from its standard input, and writes what the task makes of each. It imports neither the caller's script
nor torch, shares no lock with the caller's threads, and ends when the caller does, however that ends.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from data.errors import DataError, StoppedError

WORKERS = "ATTENTION_ZOO_WORKERS"
AT_ONCE = 8
"""So many batches are worth no process: what is less is done in this one."""

Batch = TypeVar("Batch")
Tag = TypeVar("Tag")
Result = TypeVar("Result")


def count_workers() -> int:
    """$ATTENTION_ZOO_WORKERS, else one for each core that this process may use. DataError: no positive number."""
    asked = os.environ.get(WORKERS)
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise DataError(f"{WORKERS}={asked[:50]}: the number of worker processes is 1 or more")
    return int(asked)


def in_order(
    task: Callable[[Batch], Result], batches: Iterable[tuple[Tag, Batch]], workers: int | None = None
) -> Iterator[tuple[Tag, Result]]:
    """The tag of each batch and what the task makes of it, in order; by `count_workers` processes if none are named.

    StoppedError: a worker died. What a task raises is raised here.
    """
    workers = count_workers() if workers is None else workers
    batches = iter(batches)
    first = list(islice(batches, AT_ONCE))
    if workers == 1 or len(first) < AT_ONCE:
        for tag, batch in chain(first, batches):
            yield tag, task(batch)
        return
    with ExitStack() as stack:
        # Entered before the workers, and so left after them: a thread waits for its worker, however long that takes.
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(_Worker(task)))

        def work(batch: Any) -> Any:
            worker = idle.get()
            try:
                return worker(batch)
            finally:
                idle.put(worker)

        waiting: deque[tuple[Tag, Future[Any]]] = deque()
        try:
            for tag, batch in chain(first, batches):
                waiting.append((tag, threads.submit(work, batch)))
                if len(waiting) > 2 * workers:
                    tag, future = waiting.popleft()
                    yield tag, future.result()
            while waiting:
                tag, future = waiting.popleft()
                yield tag, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


class _Worker:
    """One worker process; calling it with a batch gives the result."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "data.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._task = task

    def __enter__(self) -> "_Worker":
        _send(self._input, self._task)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def __call__(self, batch: Any) -> Any:
        try:
            _send(self._input, batch)
            failed, result = pickle.load(self._output)
        except (OSError, EOFError, pickle.UnpicklingError):
            code = self._process.wait()
            raise StoppedError(
                f"a worker process ended with {code} in the middle of its work; if memory is short, set {WORKERS} to "
                "fewer; what is done stays, and the next call goes on there"
            ) from None
        if failed:
            raise result
        return result


def _send(stream: Any, value: Any) -> None:
    pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _serve() -> None:
    """Read a task and batches until the caller is gone."""
    # Ctrl-C reaches the whole group; the caller decides what becomes of the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        task = pickle.load(source)
        while True:
            batch = pickle.load(source)
            try:
                answer = (False, task(batch))
            except Exception as error:
                answer = (True, error)
            _send(answers, answer)
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    _serve()
