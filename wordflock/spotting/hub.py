"""Models of the Hugging Face Hub: what `wordflock push` uploaded is found by the repository's name, OWNER/NAME.

A file is small, as its size says before it is fetched; it is what the Hub's checksum says; and it is read as any
checkpoint is, which runs no code. huggingface_hub keeps it in its cache, where it is found without a network.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from wordflock.errors import WordflockError
from wordflock.runs import BEST, find_checkpoint

MAX_SIZE = 256 << 20  # bytes; a head of the default kind has half a megabyte
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def find_model(model: str | Path) -> Path:
    """The checkpoint that a path, a run's name or a repository OWNER/NAME of the Hub stands for.

    What is on this machine comes first: a name whose first part is a folder here is not looked up. Raises
    WordflockError where there is none.
    """
    name = str(model)
    if not REPOSITORY.fullmatch(name) or name.endswith(".safetensors") or Path(name.partition("/")[0]).exists():
        return find_checkpoint(model)
    try:
        return _fetched(name)
    except WordflockError:
        raise
    except Exception as error:  # huggingface_hub's errors, its HTTP library's and the system's share no other base
        raise WordflockError(
            f"There is no run or checkpoint {name!r} here, and the Hugging Face Hub gave none ({_reason(error)}); "
            "check the name."
        ) from error


def _fetched(repository: str) -> Path:
    """The repository's checkpoint in the cache, as it is on the Hub now; as it was, where the Hub cannot be asked."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    try:
        found = get_hf_file_metadata(hf_hub_url(repository, BEST))
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError):
        raise
    except Exception:
        cached = try_to_load_from_cache(repository, BEST)
        if isinstance(cached, str):
            return Path(cached)
        raise
    if found.size is None or found.size > MAX_SIZE:
        size = "unknown size" if found.size is None else f"{found.size / 1e6:,.0f} MB"
        raise WordflockError(f"{repository}/{BEST} is of {size}; a head has at most {MAX_SIZE / 1e6:,.0f} MB.")
    path = Path(hf_hub_download(repository, BEST))
    if found.etag != _checksum(path, len(found.etag or "")):
        raise WordflockError(f"{path} is not what the Hub has (its checksum differs); delete it and try again.")
    return path


def _checksum(path: Path, length: int) -> str:
    """The Hub's checksum of a file: SHA-256 of large files, which has 64 digits, Git's SHA-1 of others."""
    content = path.read_bytes()
    if length == 64:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _reason(error: Exception) -> str:
    from wordflock.encoder.weights import hub_reason

    if not isinstance(error, ImportError):
        from huggingface_hub import errors

        if isinstance(error, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, and the cache has no such model"
        if isinstance(error, errors.EntryNotFoundError):
            return f"the repository has no {BEST}, so `wordflock push` did not make it"
    return hub_reason(error)
