"""Memory of this process."""

import resource
import sys
from pathlib import Path


def peak_memory() -> float:
    """MiB that this process held at most; on Linux not ru_maxrss, which a process has from the one that started it."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
