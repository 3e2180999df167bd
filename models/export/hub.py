"""An exported folder on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from models import ModelError


def check(repository: str) -> None:
    """Refuse a name that cannot be one, before any work is done. ModelError: say what would be."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ModelError(f"--push {repository!r} must be USER/NAME or ORGANISATION/NAME")


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder into a repository of models, which is made where it is missing; returns its address.

    Raises:
        ModelError: the hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            repo_type="model",
            commit_message=f"Export of {folder.name}",
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the hub did not take {folder} as {repository}: {reason}; log in with `hf auth login`"
        ) from error
    return str(address)
