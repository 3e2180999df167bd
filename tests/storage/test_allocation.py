"""Freed memory is used again."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from storage.allocation import keep_freed_memory
{call}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_freed_block_is_not_given_back():
    # Pages made for 64 MB twelve times. With all kept the first few make theirs, too: no hole is large enough yet.
    kept, given_back = (
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True
            ).stdout
        )
        for call in ("keep_freed_memory()", "")
    )
    assert kept < given_back / 2
