"""Results in a repository."""

import json
from pathlib import Path
from typing import Any


def publish(repository: Path | None, name: str, page: str, raw: dict[str, Any] | None = None) -> None:
    """Write benchmarks/results/NAME.md of a repository, and NAME.json where there are raw numbers; nothing for None."""
    if repository is None:
        return
    results = repository / "benchmarks/results"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.md").write_text(page, encoding="utf-8")
    if raw is not None:
        (results / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
