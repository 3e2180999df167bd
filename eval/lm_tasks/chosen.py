"""The tasks that were asked for: offline ones and lm-eval's by name, a user's own by file, folder or name.

A YAML file may run code of its own (`!function`), as with lm-eval itself.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from models import ModelError

FOLDER = Path(__file__).parent


def load(
    wanted: Iterable[str], offline: Sequence[str], include: str | None, metadata: dict[str, Any]
) -> tuple[Any, list[Any], dict[str, str]]:
    """A task manager, the tasks and groups that it has loaded, and why offline tasks are skipped.

    Args:
        wanted: names of tasks, groups and tags, YAML files, and folders of YAML files.
        offline: names of the offline tasks; one that the held-out text cannot give is skipped.
        include: a folder whose tasks are known by name, too.
        metadata: what the functions of the offline tasks are given.

    Raises:
        ModelError: no such task, file or folder, a file that cannot be read, or no task is left.
    """
    specs = [spec for name in wanted for spec in _files(name)]
    manager = _manager(specs, offline, include, metadata)
    tasks: list[Any] = []
    skipped: dict[str, str] = {}
    for spec in specs:
        try:
            loaded = manager.load(spec)
        except ValueError as error:
            if spec not in offline:
                raise _unusable(spec, error) from error
            skipped[spec] = str(error)
        except Exception as error:
            raise _unusable(spec, error) from error
        else:
            groups = list(loaded["groups"].values())
            tasks += groups[:1] or loaded["tasks"].values()
    if not tasks:
        raise ModelError("; ".join(f"{name}: {reason}" for name, reason in skipped.items()))
    return manager, tasks, skipped


def is_path(name: str) -> bool:
    """Whether this is a file or a folder, and no name: it ends like one, or has a separator."""
    return name.endswith((".yaml", ".yml", "/")) or len(Path(name).parts) > 1


def near(name: str, known: Sequence[str]) -> str:
    """The tail of a message about an unknown task: up to three of the thousands of names that are like it."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {', '.join(dict.fromkeys(close))}?" if close else ""


def _files(name: str) -> list[str]:
    """A name as it is; a path as the files that it stands for."""
    path = Path(name)
    if not is_path(name):
        return [name]
    if path.is_file():
        return [str(path.absolute())]
    if path.is_dir():
        files = sorted(str(file.absolute()) for file in path.glob("*.y*ml"))
        if not files:
            raise ModelError(f"folder {name} has no task, that is no .yaml file")
        return files
    raise ModelError(f"no task file or folder {name}")


def _manager(
    specs: Sequence[str], offline: Sequence[str], include: str | None, metadata: dict[str, Any]
) -> Any:
    """A manager that knows the offline tasks, those of `include` and, where a name is left, lm-eval's own.

    Looking through lm-eval's own takes seconds.
    """
    from lm_eval.tasks import TaskManager

    if include is not None and not Path(include).is_dir():
        raise ModelError(f"--include-path {include} is not a folder")
    folders = [str(folder) for folder in (FOLDER, include) if folder is not None]
    names = [spec for spec in specs if not Path(spec).is_absolute()]
    manager = TaskManager(include_path=folders, include_defaults=False, metadata=metadata)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=folders, include_defaults=True, metadata=metadata)
    for name in names:
        if name not in manager.all_tasks:
            hint = near(name, [*offline, *manager.all_tasks])
            raise ModelError(
                f"unknown task {name!r}{hint} (offline: {', '.join(offline)}; others: `lm-eval ls tasks`; "
                "your own: a .yaml file, a folder of them, or --include-path)"
            )
    return manager


def _unusable(spec: str, error: Exception) -> ModelError:
    # Hugging Face's libraries wrap the cause in errors that repeat it at length.
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    hint = "" if Path(spec).is_absolute() else "; lm-eval's own tasks are downloaded and need the network"
    return ModelError(f"lm-eval cannot load task {spec}: {reason}{hint}")
