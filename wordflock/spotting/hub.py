"""Models of the Hugging Face Hub: what `wordflock push` uploaded is found by the repository's name, OWNER/NAME.

A file is small, as its size says before it is fetched; it is what the Hub's checksum says; and it is read as any
checkpoint is, which runs no code. huggingface_hub keeps it in its cache, where it is found without a network.
"""

from __future__ import annotations

import re
from pathlib import Path

from wordflock.errors import WordflockError
from wordflock.hub import REPOSITORY, asking, checksum
from wordflock.runs import BEST, find_checkpoint

_ABSENT = f"the repository has no {BEST}, so `wordflock push` did not make it"
MAX_SIZE = 256 << 20  # bytes; a head of the default kind has half a megabyte


def find_model(model: str | Path) -> Path:
    """The checkpoint that a path, a run's name or a repository OWNER/NAME of the Hub stands for.

    What is on this machine comes first: a name whose first part is a folder here is not looked up. Raises
    WordflockError where there is none.
    """
    name = str(model)
    if not re.fullmatch(REPOSITORY, name) or name.endswith(".safetensors") or Path(name.partition("/")[0]).exists():
        return find_checkpoint(model)
    with asking(f"run or checkpoint {name!r}", _ABSENT):
        return _fetched(name)


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
    if found.etag != checksum(path, len(found.etag or "")):
        raise WordflockError(f"{path} is not what the Hub has (its checksum differs); delete it and try again.")
    return path
