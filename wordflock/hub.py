"""What models, encoders and data sets of the Hugging Face Hub have in common: names, checksums, reasons."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wordflock.errors import WordflockError

REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"  # OWNER/NAME
# A data set: a repository, and if wanted a branch, tag or commit, and one of its folders.
_DATA_SET = re.compile(rf"(?P<repository>{REPOSITORY})(?:@(?P<revision>\w[\w./-]*))?(?::(?P<folder>\w[\w ./-]*))?")
_FILE = re.compile(r"\.(tar|gz|tgz|bz2|xz|zst|zip|parquet|wav|flac|ogg|mp3|csv|tsv|json|jsonl|toml|safetensors)$")


def parts_of_data_set(name: str) -> tuple[str, str, str] | None:
    """Repository, revision and folder of a data set `OWNER/NAME[@REVISION][:FOLDER]` of the Hub.

    None for what is something else or may be on this machine: a path whose first part is a folder here, or that ends as
    files do.
    """
    found = _DATA_SET.fullmatch(name)
    if (
        not found
        or ".." in name.split("/")
        or _FILE.search(found["repository"].lower())
        or Path(name.partition("/")[0]).exists()
    ):
        return None
    return found["repository"], found["revision"] or "", (found["folder"] or "").strip("/")


def checksum(path: Path, length: int) -> str:
    """The Hub's checksum of a file: SHA-256 of large files, which has 64 digits, Git's SHA-1 of others."""
    with path.open("rb") as file:
        if length == 64:
            return hashlib.file_digest(file, hashlib.sha256).hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: digest).hexdigest()


@contextmanager
def asking(missing: str, absent: str) -> Iterator[None]:
    """Raises WordflockError where the block cannot have something of the Hub: `missing` says what is not here, and the
    rest as `hub_reason`."""
    try:
        yield
    except WordflockError:
        raise
    except Exception as error:  # huggingface_hub's errors, its HTTP library's and the system's share no other base
        raise WordflockError(
            f"There is no {missing} here, and the Hugging Face Hub gave none ({hub_reason(error, absent)}); check the "
            "name."
        ) from error


def hub_reason(error: Exception, absent: str) -> str:
    """Why the Hub gave nothing, in a few words; `absent` for a file that its repository does not have."""
    if isinstance(error, ImportError):
        return "huggingface_hub is missing, which Wordflock's extra [train] brings"
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} does not have it"
    if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError
        return f"its owner must let you read it; ask at {constants.ENDPOINT}, then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{constants.ENDPOINT} has no such repository, or none that you may read"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return absent
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"asking {constants.ENDPOINT} gave: {first_line.rstrip('.:')}"
