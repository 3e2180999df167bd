"""The peak memory of a process that measures 32,768 tokens, which docs/metrics.md states."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eval.conftest import RunMaker, prose

pytestmark = pytest.mark.slow

LENGTH = 32_768
SCRIPT = """
import sys
from pathlib import Path

from eval.analyses import activations, sinks
from eval.subject import open_subject


def peak():
    # Of this process only: getrusage counts what the parent held, too.
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


length = int(sys.argv[3])
subject = open_subject(sys.argv[1], text=sys.argv[2])
assert subject.token_documents
before = peak()
sinks.run(subject, sinks.Settings(lengths=(length,), train_length=False, longest=length, sequences=1))
activations.run(subject, activations.Settings(length=length, sequences=1))
print(before, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_long_texts_are_measured_within_four_gigabytes(make_run: RunMaker, tmp_path: Path) -> None:
    path = make_run("longest", n_layer=1, n_head=1, d_model=16, d_ff=16, max_length=LENGTH)
    text = tmp_path / "text.txt"
    text.write_text(prose(0, LENGTH), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, text, str(LENGTH)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert after < 4e9
    # A matrix of one byte per query and key would take four times that.
    assert after - before < LENGTH**2 / 4
