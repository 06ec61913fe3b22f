"""`wordflock push`: upload a run's head, or an export, with its model card to the Hugging Face Hub.

Only files that others need are uploaded: config.toml, history and predictions name folders and speakers of this
machine and stay here. The token and the address are huggingface_hub's own (HF_TOKEN, `hf auth login`, HF_ENDPOINT).
"""

from __future__ import annotations

import re
from pathlib import Path

from wordflock.errors import WordflockError
from wordflock.hub import REPOSITORY
from wordflock.report.model_card import CARD, LABELS
from wordflock.runs import BEST

UPLOADED = (CARD, LABELS, BEST, "*.onnx")


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload what others need of a run's folder or an export to a repository OWNER/NAME; returns its address.

    The repository is created where there is none. Raises WordflockError where the folder has no model card, the name is
    not OWNER/NAME, or the Hub refuses.
    """
    if not re.fullmatch(REPOSITORY, repository):
        raise WordflockError(f"{repository!r} is not a repository; write OWNER/NAME.")
    if not (folder / CARD).is_file() or not any(any(folder.glob(name)) for name in UPLOADED[2:]):
        raise WordflockError(f"{folder} has no model card or no model; push a finished run or an export.")
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=[*UPLOADED], commit_message="Upload by Wordflock"
        )
    except Exception as error:  # huggingface_hub's errors, its HTTP library's and the system's share no other base
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise WordflockError(
            f"{hub.endpoint} did not take {repository} ({reason.rstrip('.')}); check the name, HF_TOKEN and network."
        ) from error
    return f"{hub.endpoint}/{repository}"
