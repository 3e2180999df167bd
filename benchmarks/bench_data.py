"""How fast text becomes tokens, with how much memory, and what a kill costs.

    python -m benchmarks.bench_data --megabytes 50
    python -m benchmarks.bench_data --megabytes 100 1000 --against COMMIT --write .

Text is made once, in a temporary folder: documents of Shakespeare's words as often as he has them, but for 3 % that are
made of chance letters and hardly ever come again, at random lengths around 4 kB, one JSON line each. Each way prepares
it in a process of its own with an empty cache: the vocabulary is trained, every document is hashed, split and encoded.
A process is killed when half of the tokens are written, and called again. `--against` does the same with the code of an
earlier commit. Memory is what a process, and the largest of its workers, held at most.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from attention.markdown import table
from benchmarks.machine import describe
from benchmarks.publish import publish
from common.command import Parser, guarded
from data.config import DataConfig
from data.corpora import documents, open_corpus
from data.workers import count_workers

ROOT = Path(__file__).parents[1]
VOCABULARY = 8192
WORDS_OF_A_DOCUMENT = 700
MADE_UP = 0.03
"""The part of all words that hardly ever come again."""
PARTS = 8
"""Into so many parts a preparation is cut that is killed."""


HEADER = ["", "seconds", "MB/s", "MB per CPU-second", "MiB of the process", "MiB of a worker"]
WHAT = (
    f"JSON lines of Shakespeare's words as often as he has them and {MADE_UP:.0%} that are made up, in documents of "
    f"random length around 4 kB. A vocabulary of {VOCABULARY} pieces is trained on 64 MB of them (or all), all are "
    f"hashed, split and encoded, by one process that reads and {count_workers()} workers. CPU-seconds are of them all."
)


@dataclass
class Measured:
    """One preparation: seconds of wall clock and of all cores, MiB at most, and the hash of its tokens."""

    seconds: float
    cpu_seconds: float
    parent: float
    worker: float
    tokens: str


def make_text(file: Path, megabytes: int) -> int:
    """Write JSON lines with so many megabytes of text; gives the exact number of bytes."""
    counts = Counter(
        word for document in documents(open_corpus(DataConfig())) for word in document.text.split(" ")
    )
    words = np.array(list(counts), dtype=object)
    cumulative = np.cumsum(np.array(list(counts.values())) / counts.total())
    chance, size = np.random.RandomState(0), 0
    with file.open("w", encoding="utf-8") as lines:
        while size < megabytes * 10**6:
            length = int(chance.exponential(WORDS_OF_A_DOCUMENT)) + 1
            drawn = np.minimum(np.searchsorted(cumulative, chance.random_sample(length)), len(words) - 1)
            new = chance.random_sample(length) < MADE_UP
            letters = chance.randint(97, 123, (int(new.sum()), 7), dtype=np.uint8)
            found = words[drawn]
            found[new] = [row.tobytes().decode() for row in letters]
            text = " ".join(found)
            size += len(text.encode())
            lines.write(json.dumps({"text": text}) + "\n")
    return size


def run(
    code: Path, text: Path, cache: Path, stop: Callable[[], bool] = lambda: False, start: str = ""
) -> Measured | None:
    """Prepare with the package `data` of a folder, after some lines of Python; None where `stop` had it killed."""
    options = ["prepare", "corpus=jsonl", f"path={text}", f"tokenizer.vocab_size={VOCABULARY}"]
    command = [sys.executable, "-c", f"{start}\nfrom data.__main__ import main\nmain()", *options]
    environment = os.environ | {"ATTENTION_ZOO_CACHE": str(cache)}
    began = time.monotonic()
    with subprocess.Popen(command, cwd=code, env=environment, stdout=subprocess.DEVNULL) as process:
        watched, parent, worker, spent = psutil.Process(process.pid), 0.0, 0.0, {process.pid: 0.0}
        while process.poll() is None:
            try:
                for one in (watched, *watched.children(recursive=True)):
                    with one.oneshot():
                        held, times = one.memory_info().rss / 2**20, one.cpu_times()
                    spent[one.pid] = times.user + times.system
                    parent, worker = (
                        (max(parent, held), worker) if one == watched else (parent, max(worker, held))
                    )
            except psutil.Error:
                continue
            if stop():
                process.kill()
                return None
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return Measured(time.monotonic() - began, sum(spent.values()), parent, worker, _hash(cache))


def killed_at_half(code: Path, text: Path, cache: Path, size: int) -> tuple[float, Measured]:
    """Seconds until half of the tokens were written and the process was killed, and the call after that."""
    wanted = size / 2 / 4.5 * 2  # two bytes for each token, of about so many bytes of text

    def half() -> bool:
        written = sum(file.stat().st_size for file in cache.glob(".shards-*/train*.uint16"))
        return written > wanted

    start = f"from data import parts\nparts.SIZE = {size // PARTS}"
    began = time.monotonic()
    if run(code, text, cache, half, start) is not None:
        raise SystemExit("the process ended before it was half done")
    seconds = time.monotonic() - began
    return seconds, finished(run(code, text, cache, start=start))


def finished(measured: Measured | None) -> Measured:
    """What was measured of a process that nobody killed."""
    assert measured is not None
    return measured


def _hash(cache: Path) -> str:
    total = hashlib.sha256()
    for split in ("train", "valid"):
        for file in sorted(cache.glob(f"shards-*/{split}*.uint16")):
            with file.open("rb") as content:
                while part := content.read(1 << 24):
                    total.update(part)
    return total.hexdigest()


def measure(folder: Path, megabytes: int, against: str | None) -> str:
    """The table of one size of text."""
    text, cache = folder / "text.jsonl", folder / "cache"
    size = make_text(text, megabytes)
    found: dict[str, Measured] = {}
    if against:
        before = folder / "before"
        before.mkdir()
        archive = subprocess.run(
            ["git", "archive", against, "data", "common"], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", str(before)], input=archive.stdout, check=True)
        found[f"commit {against}"] = finished(run(before, text, cache))
        shutil.rmtree(cache)
    found["in one go"] = finished(run(ROOT, text, cache))
    found["found in the cache"] = finished(run(ROOT, text, cache))
    shutil.rmtree(cache)
    seconds, found["again after a kill at half"] = killed_at_half(ROOT, text, cache, size)
    shutil.rmtree(cache)
    rows = []
    for name, it in found.items():
        whole = not name.startswith("again")  # half of the text was done before
        speeds = [f"{size / 1e6 / spent:.1f}" if whole else "-" for spent in (it.seconds, it.cpu_seconds)]
        worker = f"{it.worker:,.0f}" if it.worker else "-"
        rows.append([name, f"{it.seconds:.1f}", *speeds, f"{it.parent:,.0f}", worker])
    rows.insert(-1, ["until that kill", f"{seconds:.1f}", "-", "-", "-", "-"])
    same = "the same" if len({it.tokens for it in found.values()}) == 1 else "NOT THE SAME"
    load = f"The load of the machine over the last 15 minutes was {os.getloadavg()[2]:.1f}"
    return f"## {size / 1e6:,.0f} MB\n\nTokens are {same} in all rows. {load}.\n\n{table(HEADER, rows)}"


def main(arguments: list[str] | None = None) -> None:
    """Make the text, measure, print the table."""
    parser = Parser(
        prog="python -m benchmarks.bench_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=[50], help="sizes of text, one after the other"
    )
    parser.add_argument(
        "--against", metavar="COMMIT", help="an earlier commit to compare with, at the first size"
    )
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="whose benchmarks/results gets data.md")
    options = parser.parse_args(arguments)
    written = f"# Preparing text\n\n{describe()}.\n\n{WHAT}"
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            against = options.against if megabytes == options.megabytes[0] else None
            written += f"\n\n{measure(Path(folder), megabytes, against)}"
    print(written)
    publish(options.write, "data", written + "\n")


if __name__ == "__main__":
    guarded(main)
