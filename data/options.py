r"""Options typed as `key=value`: a text is taken as it was typed, everything else is read as YAML.

    path=notes #1.txt    separator=---    tokenizer.vocab_size=512    max_documents=null

Of a text, `null` alone means none (where the key allows it), and quotes around the whole of it are taken off:
`path="null"` is a file called null. In double quotes the escapes of JSON hold; `separator` knows \n, \t, \r and \\
without them, too. Mind that a shell takes off quotes of its own.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.configs import base_sixty, is_text
from data.errors import DataError

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}
"""What a key with the metadata `escapes` understands outside of quotes."""


def read_option(option: str, schema: type) -> tuple[str, dict[str, Any]]:
    """The key of `key=value`, and the value under it as nested dicts for `OmegaConf.merge`.

    `schema` is the dataclass of the config; a dotted key leads into nested ones. Whether there is such a key, and
    whether the value is of its type, is left to the merge. DataError: no `=`, no YAML, quotes that do not end.
    """
    key, equals, text = option.partition("=")
    if not (key and equals):
        raise DataError(f"option {option!r} must read key=value")
    names = key.split(".")
    kinds, metadata = _find(schema, names)
    value: Any
    if types.NoneType in kinds and text == "null":
        value = None
    elif is_text(kinds):
        value = _text(text, option, escapes=metadata.get("escapes", False))
    else:
        value = _yaml(text, option)
    for name in reversed(names):
        value = {name: value}
    return key, value


def _find(schema: Any, names: list[str]) -> tuple[tuple[Any, ...], Mapping[Any, Any]]:
    """The types that the value of a dotted key may have, and the field's metadata; any type where it has no field."""
    for field in dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ():
        if field.name == names[0]:
            kind = typing.get_type_hints(schema)[field.name]
            if len(names) > 1:
                return _find(kind, names[1:])
            return (typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)), field.metadata
    return (Any,), {}


def _text(text: str, option: str, escapes: bool) -> str:
    if re.fullmatch(r'"(?:[^"\\]|\\.)*"', text, re.DOTALL):
        try:
            text = json.loads(text, strict=False)
        except json.JSONDecodeError as error:
            raise DataError(f"option {option!r}: {error.msg}; in double quotes, write \\\\ for \\") from None
    elif re.fullmatch(r"'(?:[^']|'')*'", text):
        text = text[1:-1].replace("''", "'")
    elif escapes:
        text = re.sub(r"\\[ntr\\]", lambda found: ESCAPES[found[0]], text)
    if text == "???":
        raise DataError(f"option {option!r}: '???' stands for a missing value and cannot be one")
    if not text.isprintable() and any(0xD800 <= ord(sign) < 0xE000 for sign in text):
        raise DataError(f"option {option!r} is not valid Unicode")
    # OmegaConf reads ${...} as a reference; this is its way to write the text itself.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _yaml(text: str, option: str) -> Any:
    if written := base_sixty(text):
        raise DataError(f"option {option!r}: YAML reads {written} in base sixty; write a plain number")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"option {option!r}: {reason}") from None
