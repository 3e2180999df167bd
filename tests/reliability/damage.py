"""Runs and checkpoints with a damaged file.

A run of ten steps is put back to its checkpoint of step 6, with that of step 3 beside it, and one thing in it is
damaged. "Resealed" damage has checksums that agree with it, as a malicious hand would leave them. Survived: the run is
opened for evaluation, and resumed, with exit code 2 and one line each, or as if it were whole: the resumed run ends bit
for bit as the undamaged one. Where the line says what to delete, deleting it leads there, too.
"""

import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from storage import checkpoint_path, write_checksums
from tests.reliability import Trial
from tests.reliability._world import SAID, World, last_line, one_line, world

COUNT, FEW = 100, 8

Damage = Callable[[Path, random.Random], None]
FILES = ("model.safetensors", "optimizer.bin", "random_states_0.pkl", "trainer.json", "checksums.json")
OWN = ("config.yaml", "run.json", "tokenizer.model", "metrics.jsonl")
JUNK: tuple[Any, ...] = (None, [], {}, "8", 8, -1, 1.5, True, [["a"]], "x" * 70_000)


def flip(file: Path, chance: random.Random) -> None:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut(file: Path, chance: random.Random) -> None:
    """Lose the end."""
    file.write_bytes(file.read_bytes()[: chance.randrange(1, file.stat().st_size)])


def empty(file: Path, chance: random.Random) -> None:
    """Lose all."""
    file.write_bytes(b"")


def missing(file: Path, chance: random.Random) -> None:
    """Lose the file."""
    file.unlink()


def garbage(file: Path, chance: random.Random) -> None:
    """Have other bytes."""
    file.write_bytes(chance.randbytes(chance.randint(1, 3000)))


def folder(file: Path, chance: random.Random) -> None:
    """Have a folder in the place of the file."""
    file.unlink()
    file.mkdir()


def other_json(file: Path, chance: random.Random) -> None:
    """Have JSON of another shape."""
    file.write_text(json.dumps(chance.choice(JUNK)))


def deep_json(file: Path, chance: random.Random) -> None:
    """Have JSON that nests too deep."""
    file.write_text("[" * 100_000)


def other_value(file: Path, chance: random.Random) -> None:
    """Have a value of another type, somewhere."""
    values = json.loads(file.read_text())
    key = chance.choice(sorted(values))
    values[key] = chance.choice([junk for junk in JUNK if type(junk) is not type(values[key])])
    if type(values[key]) in (int, float) and key in ("seconds", "loss"):
        values[key] = "8"
    file.write_text(json.dumps(values))


def pickled(file: Path, chance: random.Random) -> None:
    """Have a pickle that makes a file of its own when it is read."""
    torch.save({"state": _Exploit(str(file.parents[3] / "exploited"))}, file)


class _Exploit:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def plain_pickle(file: Path, chance: random.Random) -> None:
    """The same in Python's own format."""
    file.write_bytes(pickle.dumps(_Exploit(str(file.parents[3] / "exploited"))))


def not_finite(file: Path, chance: random.Random) -> None:
    """Hold a value that is no number."""
    value = chance.choice([float("nan"), float("inf"), -float("inf")])
    if file.suffix == ".safetensors":
        tensors = load_file(file)
        chance.choice(list(tensors.values())).view(-1)[0] = value
        save_file(tensors, file)
    else:
        loaded = torch.load(file, weights_only=True)
        state = chance.choice(list(loaded["state"].values()))
        state[chance.choice(["exp_avg", "exp_avg_sq"])].view(-1)[0] = value
        torch.save(loaded, file)


def other_shape(file: Path, chance: random.Random) -> None:
    """Hold tensors of another shape, or none of some name."""
    if file.suffix == ".safetensors":
        tensors = load_file(file)
        name = chance.choice(sorted(tensors))
        changed = {name: torch.zeros(3, 3, 3)} if chance.random() < 0.5 else {name + "x": tensors[name]}
        save_file({key: value for key, value in tensors.items() if key != name} | changed, file)
    else:
        loaded = torch.load(file, weights_only=True)
        state = chance.choice(list(loaded["state"].values()))
        key = chance.choice(["exp_avg", "exp_avg_sq"])
        if chance.random() < 0.5:
            state[key] = torch.zeros(3, 3, 3)
        else:
            del state[key]
        torch.save(loaded, file)


def other_settings(file: Path, chance: random.Random) -> None:
    """Come from an optimizer with other settings."""
    loaded = torch.load(file, weights_only=True)
    key, value = chance.choice(
        [("betas", (0.1, 0.2)), ("weight_decay", 0.7), ("eps", 1.0), ("amsgrad", True)]
    )
    loaded["param_groups"][0][key] = value
    torch.save(loaded, file)


PLAIN: tuple[Damage, ...] = (flip, cut, empty, missing, garbage, folder)
JSON: tuple[Damage, ...] = (other_json, deep_json, other_value)
RESEALED: tuple[tuple[str, Damage], ...] = (
    *((name, damage) for name in FILES[:4] for damage in (cut, empty, garbage)),
    *((name, missing) for name in ("model.safetensors", "optimizer.bin", "trainer.json")),
    *(
        (name, damage)
        for name in ("optimizer.bin", "random_states_0.pkl")
        for damage in (pickled, plain_pickle)
    ),
    *(
        (name, damage)
        for name in ("model.safetensors", "optimizer.bin")
        for damage in (not_finite, other_shape)
    ),
    ("optimizer.bin", other_settings),
    *[("trainer.json", other_value)] * 4,
    ("trainer.json", other_json),
    ("trainer.json", deep_json),
)


def _stray(run: Path, chance: random.Random) -> str:
    """Something that does not belong into a run."""
    newest = checkpoint_path(run, 6)
    what = chance.randrange(6)
    if what == 0:
        shutil.copytree(newest, checkpoint_path(run, 99_999_999))
        return "step-99999999, a copy of step 6"
    if what == 1:
        torch.save({}, newest / "custom_checkpoint_0.pkl")
        if chance.random() < 0.5:
            write_checksums(newest)
        return "custom_checkpoint_0.pkl"
    if what == 2:
        shutil.move(run / "checkpoints", run / "aside")
        (run / "checkpoints").write_text("")
        return "a file in the place of checkpoints"
    if what == 3:
        (run / "checkpoints" / ".step-00000009.partial").write_text("")
        return ".step-00000009.partial, a file"
    if what == 4:
        checkpoint_path(run, 8).write_text("")
        return "step-00000008, a file"
    (newest / "notes").mkdir()
    (newest / "notes" / "mine.txt").write_text("mine")
    return "notes/mine.txt in a checkpoint"


def trials(count: int, seed: int) -> Iterator[Trial]:
    """Damage a run, open it, resume it, follow the advice."""
    chance = random.Random(seed)
    plans = [
        *(("a file of a checkpoint", name, damage) for name in FILES for damage in PLAIN),
        *(
            ("checksums.json of another shape", "checksums.json", damage)
            for damage in (other_json, deep_json, other_value)
        ),
        *(("a checkpoint's file, resealed", name, damage) for name, damage in RESEALED),
        *(("a file of the run", name, damage) for name in OWN for damage in PLAIN),
        *(
            ("a file of the run", name, damage)
            for name in ("run.json", "metrics.jsonl")
            for damage in (other_json, deep_json)
        ),
        *[("something that does not belong there", "", flip)] * 6,
    ]
    with world() as here:
        whole = here.train("whole", "train.keep_checkpoints=9")
        assert whole.codes == [0], whole.complained
        chosen = (
            chance.sample(plans, count)
            if count < len(plans)
            else [plans[n % len(plans)] for n in range(count)]
        )
        for number, (kind, name, damage) in enumerate(chosen):
            run = here.copy("whole", f"run{number}", newest=6)
            if not name:
                case = _stray(run, chance)
            else:
                file = (run if name in OWN else checkpoint_path(run, 6)) / name
                damage(file, chance)
                case = f"{name}, {damage.__name__}, trial {number}"
                if kind.endswith("resealed"):
                    write_checksums(checkpoint_path(run, 6))
            yield _outcome(here, run, kind, case)
            here.remove(run.name)


def _outcome(here: World, run: Path, kind: str, case: str) -> Trial:
    opened = here.nursery("open", str(run))
    if opened.codes[0] not in (0, 2) or (opened.codes[0] == 2 and one_line(opened.complained)):
        return Trial(kind, case, failure=f"opened with {opened.codes}: {last_line(opened.complained)}")
    resumed = here.train(run.name, "--resume", "train.keep_checkpoints=9")
    if (here.runs / "exploited").exists():
        return Trial(kind, case, failure="code of a pickle was run")
    if resumed.codes[0] == 0:
        failure = here.difference(run.name, "whole")
        if failure == "the log differs" and SAID in resumed.said:
            return Trial(kind, case, "resumed; the log's loss was said")
        return Trial(kind, case, "unharmed, bit for bit", failure)
    if resumed.codes[0] != 2 or (failure := one_line(resumed.complained)):
        return Trial(
            kind, case, failure=f"resumed with {resumed.codes}: {failure or last_line(resumed.complained)}"
        )
    advice = re.search(r"(?:, |to .*)delete (.*)$", resumed.complained.strip())
    if advice is None:
        return Trial(kind, case, "refused in one line")
    for doomed in advice[1].split():
        shutil.rmtree(doomed) if Path(doomed).is_dir() else Path(doomed).unlink()
    failure = here.resume(run.name, "whole", "train.keep_checkpoints=9")
    return Trial(kind, case, "refused; the advice led to the end, bit for bit", failure)
