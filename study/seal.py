"""The seal of a study: claims stand before results.

study.json keeps the claims and seeds with which a study was begun. Once a run of the study has ended, the claims cannot
be changed any more; seeds can be added, and are told apart from those that were planned.
"""

import time
from dataclasses import dataclass

from common.errors import InputError
from common.files import write_json
from common.reading import read_json
from eval.codec import decode, encode
from study import claims
from study.claims import Claim
from study.definition import Study
from study.tasks import begun


@dataclass(frozen=True)
class Seal:
    """The content of study.json.

    Attributes:
        claims: as they were before the first result.
        fingerprint: of them.
        seeds: that were planned with them.
        since: when they were last changed, as local time.
    """

    claims: list[Claim]
    fingerprint: str
    seeds: list[int]
    since: str


def seal(study: Study) -> Seal:
    """Write the claims down, or check them against those that are.

    Raises:
        InputError: the claims have changed since a run of the study ended.
    """
    path = study.folder / "study.json"
    now = claims.fingerprint(study.file.claims)
    if path.is_file():
        known = decode(Seal, read_json(path, dict), str(path))
        if known.fingerprint != claims.fingerprint(known.claims):
            raise InputError(f"{path} was edited: its claims are not those of its fingerprint")
        settled = begun(study)
        if settled and known.fingerprint != now:
            raise InputError(
                f"the claims of {study.name} have changed since its first result: {_changed(known.claims, study)}; put "
                f"them back as {path} has them, or copy the file and begin a study of another name"
            )
        if settled or (known.fingerprint == now and known.seeds == study.file.seeds):
            return known
    found = Seal(study.file.claims, now, study.file.seeds, time.strftime("%Y-%m-%d %H:%M:%S"))
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, encode(found))
    return found


def _changed(known: list[Claim], study: Study) -> str:
    before, now = ({claim.name: claim for claim in some} for some in (known, study.file.claims))
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(names)
