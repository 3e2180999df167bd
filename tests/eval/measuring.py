"""What analyses measure, as their result files hold it."""

from types import ModuleType
from typing import Any

from eval.codec import encode
from eval.subjects.base import Subject


def measure(analysis: ModuleType, subject: Subject, settings: Any) -> dict[str, Any]:
    """Protocol and results of one subject, as JSON."""
    found = analysis.run(subject, settings)
    return {"protocol": encode(found.protocol), "results": encode(found.results)}


def typed(analysis: ModuleType, results: dict[str, Any]) -> Any:
    """Results as the analysis declares them, from JSON."""
    return analysis.ANALYSIS.read({"results": results})
