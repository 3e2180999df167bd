"""Configs of any kind, through the loader and through the whole command.

Random YAML files and overrides: numbers out of their range, other types, other structures, garbage, mutations of the
shipped configs, references and tags that ask for code or secrets. Each must be refused in one line, or accepted and
then be a model that can be built; every 250th goes through `train.py` as a whole, where it must exit with 2 and one
line, or train. Nothing may take longer than 60 seconds, run code or show a secret.
"""

import contextlib
import dataclasses
import io
import os
import random
import signal
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import attention
import train as command_of_training
from attention import AttentionError
from common.command import guarded
from common.errors import InputError
from models import GPT
from tests.reliability.trial import Trial
from training import load
from training.config import Config, _fields

COUNT, FEW = 5000, 60
WHOLE = 250
"""Of so many trials one goes through the whole command."""

SECONDS = 60
SECRET = "s3cr3t-0f-th3-fuzz"
SHIPPED = sorted(
    path
    for path in Path(__file__).parents[2].joinpath("configs").rglob("*.yaml")
    if path.parent.name not in ("accelerate", "studies")
)
PLAIN = Path(__file__).parents[2] / "configs/micro-softmax.yaml"
KEYS = [name for name, _, _ in _fields(Config)]

# fmt: off
NUMBERS = ["0", "-1", "1", "2", "3", "7", "1.5", "-0.0", "1e-320", "1e-40", "1e-3", "0.5", "1e10", "1e39",
    "1e300", "inf", "-inf", "nan", ".inf", ".nan", "1:30", "0x10", "1_000", "4294967295", "4294967296",
    "99999999999999999999999", "2147483649", "1e400"]
TEXTS = ["null", "~", "true", "false", "yes", "no", "???", "softmax", "auto", "-", "../../x", "/etc/passwd", "*a",
    "&a", "!x", "%", "@", "`", "'", '"', "[", "]", "{", "}", "#", ":", "=", ",", "--", "softmax*99999999999",
    "softmax*1,swat*3", "none*1,128*3", "softmax*", "softpick,softpick"]
STRUCTURES = ["[]", "[1]", "{}", "{a: 1}", "{1: 2}", "[[[]]]", "{softmax: 3}", "[null]", "{~: 1}", "{softpick: [1]}"]
STRUCTURES += ["{swat: {window: 1.5}}", "{swat: {slopes: 3}}", "{lssar: {power: abc}}", "{lssar: {power: .nan}}"]
LONG = ["9" * 5000, "x" * 5000, "[" * 600 + "]" * 600, "{a: " * 300 + "1" + "}" * 300, "é\u2028x", "a\nb", "\x00",
    "\t", ""]
MILD = ["1", "2", "3", "4", "5", "8", "16", "32", "64", "0.1", "0.5", "0.9", "1e-3", "1e-6", "null", "true",
    "false", "softmax", "softpick", "rope", "none", "swiglu", "gelu", "bf16"]
CODE = ["!!python/object/apply:os.system ['touch {mark}']", "!!python/name:os.system", "${{oc.env:{name}}}"]
CODE += ["${{oc.decode:'{mark}'}}", "${{oc.create:[1]}}", "${{{name}}}", "${{train.steps}}", "${{",
    "${{oc.env:{name}"]
CODE += ["\\${{oc.env:{name}}}", "\\\\${{oc.env:{name}}}", "${{${{model.attention}}:{name}}}"]
# fmt: on


def trials(count: int, seed: int) -> Iterator[Trial]:
    """Make `count` configs and load each."""
    with tempfile.TemporaryDirectory() as home, _environment(Path(home)):
        for number in range(count):
            chance = random.Random(f"{seed}:{number}")
            kind = chance.choice(list(KINDS))
            folder = Path(home) / str(number)
            folder.mkdir()
            path, overrides = KINDS[kind](chance, folder)
            run = _whole if number % WHOLE == 60 else _loaded
            case = f"--seed {seed}, number {number}: {str(overrides)[:80]}"
            outcome, failure = _timed(lambda path=path, more=overrides, run=run: run(path, more, Path(home)))
            if (Path(home) / "mark").exists():
                failure = "code was run"
            yield Trial(kind, case, outcome, failure)


def _override(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    chosen = [f"{chance.choice(KEYS)}={_value(chance)}" for _ in range(chance.choice((1, 1, 1, 2, 5)))]
    return chance.choice(SHIPPED), chosen


def _options(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    mechanism = chance.choice(attention.names())
    options = [field.name for field in dataclasses.fields(attention.get(mechanism))]  # type: ignore[arg-type]
    key = f"model.attention_options.{mechanism}"
    places = [key, f"{key}.x", *[f"{key}.{option}" for option in options] * 6]
    return PLAIN, [f"model.attention={mechanism}", f"{chance.choice(places)}={_value(chance)}"]


def _odd_override(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    key = chance.choice(
        [*KEYS, *KEYS, "train", "model", "data.tokenizer", "extends", "x", "", ".", "train..steps", "a.b.c"]
    )
    key = _mutated(key, chance) if chance.random() < 0.5 else key
    return chance.choice(SHIPPED), [f"{key}{chance.choice(['=', '=', '==', ''])}{_value(chance)}"]


def _file(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    lines = []
    for _ in range(chance.randint(1, 6)):
        *sections, leaf = chance.choice(KEYS).split(".")
        indent = ""
        for section in sections:
            lines.append(f"{indent}{section}:")
            indent += "  "
        lines.append(f"{indent}{leaf}: {_value(chance)}")
    return _written(folder, "\n".join(lines).encode(errors="surrogatepass")), []


def _garbage(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    kinds: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.randint(0, 300)),
        lambda: "".join(chance.choice("[]{}:,-&*!|>'\"%@ \n\tab1#?") for _ in range(200)).encode(),
        lambda: _value(chance).encode(errors="surrogatepass"),
        lambda: "train: {steps: 5}".encode("utf-16"),
        lambda: b"a: &a [" + b"*a," * 3 + b"]",
        lambda: b"\n".join(b"x%d: &x%d [*x%d, *x%d]" % (i, i, i - 1, i - 1) for i in range(1, 40)),
    ]
    return _written(folder, chance.choice(kinds)()), []


def _mutation(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    source = chance.choice(SHIPPED)
    text = source.read_text().replace("extends: ", f"extends: {source.parent}/")
    lines = text.splitlines()
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(lines))
        match chance.randrange(5):
            case 0:
                lines[place] = _mutated(lines[place], chance)
            case 1:
                lines.pop(place)
            case 2:
                lines.insert(place, chance.choice(lines))
            case 3:
                lines[place] = lines[place].partition(":")[0] + f": {_value(chance)}"
            case 4:
                lines[place] = " " * chance.randint(1, 5) + lines[place]
        lines = lines or ["{}"]
    return _written(folder, "\n".join(lines).encode(errors="surrogatepass")), []


def _chain(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    targets = [
        "config.yaml",
        "other.yaml",
        "x" * 5000,
        "\\0",
        "/dev/null",
        "/",
        ".",
        "[1]",
        "5",
        "null",
        "~nobody/x",
    ]
    _written(folder, f"extends: {chance.choice([*targets, str(SHIPPED[0])])}\n".encode(), "other.yaml")
    return _written(folder, f"extends: {chance.choice(targets)}\ntrain: {{steps: 3}}\n".encode()), []


def _paths(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    name = chance.choice(
        ["x" * 256, "a\nb", "a/b", "..", ".", "", "-x", "é" * 150, "x" * 300, "con fig", "\x1b[31m"]
    )
    out = chance.choice(["runs", "x/" * 2100, "x" * 256, "a\nb", "/proc/nowhere", "/dev/null/x", ""])
    config = chance.choice(
        [SHIPPED[0], Path("x" * 300), Path("/nonexistent/a.yaml"), Path("a\0b.yaml"), folder]
    )
    return config, [f"name={name}", f"out={out}"]


KINDS: dict[str, Callable[[random.Random, Path], tuple[Path, list[str]]]] = {
    "an override with an odd value": _override,
    "options of a mechanism": _options,
    "an override with an odd key": _odd_override,
    "a file of odd values": _file,
    "a file that is no config": _garbage,
    "a shipped config, mutated": _mutation,
    "files that extend one another": _chain,
    "names and paths": _paths,
}


def _value(chance: random.Random) -> str:
    pool = chance.choice([MILD, MILD, MILD, NUMBERS, NUMBERS, TEXTS, STRUCTURES, LONG, CODE])
    value = chance.choice(pool)
    return value.format(mark=os.environ["FUZZ_MARK"], name="FUZZ_SECRET") if pool is CODE else value


def _mutated(text: str, chance: random.Random) -> str:
    letters = list(text) or ["x"]
    place = chance.randrange(len(letters))
    letters[place] = chance.choice(["", letters[place] * 2, chr(chance.randrange(1, 300)), "\n", ":", "."])
    return "".join(letters)


def _written(folder: Path, content: bytes, name: str = "config.yaml") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _loaded(path: Path, overrides: list[str], home: Path) -> tuple[str, str]:
    try:
        config = load(path, overrides)
    except (AttentionError, InputError) as refusal:
        said = str(refusal)
        return "refused in one line", "the secret is shown" if SECRET in said else ""
    if SECRET in repr(config):
        return "", "the secret was read"
    if config.model.vocab_size is None:
        config.model.vocab_size = 1024
    with torch.device("meta"):
        GPT(config.model)
    return "accepted, and a model can be built", ""


def _whole(path: Path, overrides: list[str], home: Path) -> tuple[str, str]:
    """The command on a small run with these overrides, in this process."""
    kept = os.environ.get("ATTENTION_ZOO_CACHE")
    os.environ["ATTENTION_ZOO_CACHE"] = str(home / "cache")
    try:
        return _trained(path, overrides, home)
    finally:
        os.environ.pop("ATTENTION_ZOO_CACHE")
        if kept is not None:
            os.environ["ATTENTION_ZOO_CACHE"] = kept


def _trained(path: Path, overrides: list[str], home: Path) -> tuple[str, str]:
    small = home / "small.yaml"
    texts = home / "texts"
    texts.mkdir(exist_ok=True)
    for number in range(6):
        (texts / f"{number}.txt").write_text(f"To be, or not to be {number}: that is the question. " * 40)
    small.write_text(
        f"out: {home}/runs\nmodel: {{n_layer: 1, n_head: 2, d_model: 16, d_ff: 16, max_length: 64, kernel: tiled}}\n"
        f"data: {{corpus: text, path: {texts}, held_out: 0.3, tokenizer: {{vocab_size: 300}}}}\n"
        "train: {steps: 2, batch_size: 2, length: 16, warmup_steps: 0, precision: fp32, tracker: none}\n"
    )
    config = path if path.name == "config.yaml" and not overrides else small
    complaint, answer = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["train.py", str(config), *[text for text in overrides if text[:1] != "-"]]
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(answer):
            guarded(command_of_training.main)
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    said = complaint.getvalue()
    if SECRET in said + answer.getvalue():
        return "", "the secret is shown"
    if code == 0:
        return "the whole command: trained", ""
    one = said.strip().splitlines()[-1:]
    if code == 2 and one and one[0].startswith("error: ") and "Traceback" not in said:
        return "the whole command: exit 2 and one line", ""
    return "", f"the whole command: exit {code}: {one}"


def _timed(trial: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    def stop(*_: Any) -> typing.NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        return trial()
    except TimeoutError:
        return "", f"no answer in {SECONDS} s"
    except Exception as error:  # whatever comes is what the table is about
        return "", f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _environment(home: Path) -> Iterator[None]:
    """A secret that configs ask for, a place where code would leave its mark, no network."""
    mine = {"FUZZ_SECRET": SECRET, "FUZZ_MARK": str(home / "mark"), "HF_HUB_OFFLINE": "1"}
    mine["HF_DATASETS_OFFLINE"] = "1"
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
