"""Data sets of the Hugging Face Hub: of a repository, the files that hold recordings, and tables beside them.

They are fetched once, for a name that the user gave, into a folder of the cache that has a commit in it when it is
whole; from then on nothing is asked of the network. What was fetched before a cut stays, and is not fetched again.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wordflock.data.bounds import MAX_FILES
from wordflock.data.download import FOLDER, check_space, size_text
from wordflock.data.layouts import is_text
from wordflock.data.listing import is_audio, is_parquet, walk
from wordflock.data.manifests import split_named
from wordflock.data.names import printable
from wordflock.errors import WordflockError, counted
from wordflock.files import locked, write_atomically
from wordflock.hub import asking, checksum, parts_of_data_set
from wordflock.progress import progress, report

_COMMIT = ".commit"  # the file that says of which commit the folder is; hidden, as is what huggingface_hub keeps there
_SMALL, _TOGETHER = 8 << 20, 8  # bytes of a file that is fetched with others, and how many of them
_ABSENT = "it has no such folder"


def find_on_hub(name: str, cache: Path) -> Path:
    """The folder of a data set `OWNER/NAME[@REVISION][:FOLDER]`, fetched where it is not on this machine.

    Raises WordflockError where the Hub does not give it, it holds no recordings or those of several configurations,
    and where there is too little space.
    """
    parts = parts_of_data_set(name)
    assert parts is not None
    folder = _folder(name, cache)
    if is_fetched(name, cache):
        report(f"{name}: commit {(folder / _COMMIT).read_text()[:12]} of the Hub, in {folder}")
    else:
        with asking(f"folder or archive {name!r}", _ABSENT):
            commit, files = _listed(name, *parts)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(folder):
                _fetch(name, parts[0], commit, files, folder)
    return folder / parts[2]


def is_fetched(name: str, cache: Path) -> bool:
    """Whether a data set of the Hub is on this machine."""
    return (_folder(name, cache) / _COMMIT).exists()


def _folder(name: str, cache: Path) -> Path:
    return Path(cache) / FOLDER / "hub" / quote(name, safe="")


def _listed(name: str, repository: str, revision: str, below: str) -> tuple[str, list[Any]]:
    """The commit, and the files that are needed, as the Hub describes them."""
    from huggingface_hub import HfApi

    hub = HfApi()
    commit = str(hub.dataset_info(repository, revision=revision or None).sha)
    tree = hub.list_repo_tree(repository, below or None, recursive=True, revision=commit, repo_type="dataset")
    entries = list(islice(tree, MAX_FILES + 1))
    if len(entries) > MAX_FILES:
        raise WordflockError(f"{name} of the Hub holds more than {MAX_FILES:,} files; name one of its folders.")
    return commit, _needed(name, [entry for entry in entries if hasattr(entry, "blob_id")])  # not folders


def _fetch(name: str, repository: str, commit: str, files: Sequence[Any], folder: Path) -> None:
    """Fetch what is not there yet; large files one by one, of which huggingface_hub shows the progress."""
    from huggingface_hub import hf_hub_download

    size = sum(file.size for file in files)
    there = sum(path.stat().st_size for file in files if (path := folder / file.path).is_file())
    check_space(folder, size - there, "--cache")
    much = f"{counted(len(files), 'file')}, {size_text(size)}"
    report(f"{name}: commit {commit[:12]} of the Hub; {much}, to fetch into {folder}")
    get = partial(hf_hub_download, repository, repo_type="dataset", revision=commit, local_dir=folder)

    def fetch(file: Any) -> None:
        path, expected = Path(get(filename=file.path)), file.lfs.sha256 if file.lfs else file.blob_id
        if checksum(path, len(expected)) != expected:
            path.unlink()
            raise WordflockError(f"{file.path} is not what the Hub says of {name} (its checksum differs); try again.")

    small = [file for file in files if file.size <= _SMALL]
    for file in files:
        if file.size > _SMALL:
            fetch(file)
    with (
        _no_bars(),
        ThreadPoolExecutor(_TOGETHER) as pool,
        progress(f"fetching {name}", len(small), "files") as advance,
    ):
        for _ in pool.map(fetch, small):
            advance()
    wanted = {folder / file.path for file in files}
    for _, path, _ in walk(folder):  # of another commit, whose fetching was cut
        if Path(path) not in wanted:
            Path(path).unlink()
    write_atomically(folder / _COMMIT, commit.encode())


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep huggingface_hub from showing a bar for each of thousands of files."""
    from huggingface_hub import utils

    bars: Any = utils  # which exports these functions by other means than mypy knows
    shown = not bars.are_progress_bars_disabled()
    if shown:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bars()


def _needed(name: str, files: Sequence[Any]) -> list[Any]:
    """Parquet files, or else recordings and the tables that may say what is in them."""
    files = [file for file in files if _is_plain(file.path)]
    parquets = [
        file for file in files if is_parquet(file.path) and not posixpath.basename(file.path).startswith("metadata.")
    ]
    if parquets:
        _check_configurations(name, [file.path for file in parquets])
        return parquets
    if any(is_audio(file.path) for file in files):
        return [file for file in files if is_audio(file.path) or is_text(file.path)]
    kinds = sorted({posixpath.splitext(file.path)[1] for file in files} - {"", ".md"})
    raise WordflockError(
        f"{name} of the Hub holds neither Parquet files nor recordings, but {', '.join(kinds) or 'nothing'}; fetch it "
        "yourself, and name a folder or archive."
    )


def _is_plain(path: str) -> bool:
    """Whether a path leads inside the folder, and no part of it is hidden or cannot be printed."""
    return not any(part.startswith(".") or not part or printable(part) != part for part in path.split("/"))


def _check_configurations(name: str, paths: Iterable[str]) -> None:
    """Raises WordflockError where Parquet files stand in several folders that are not named after splits."""
    folders = {"/".join(part for part in path.split("/")[:-1] if not split_named(part)) for path in paths}
    if len(folders) > 1:
        named = sorted(folders - {""})
        one = f"{name.partition(':')[0]}:{named[0]}"
        raise WordflockError(
            f"{name} has several configurations ({', '.join(named)}); name one of them, such as --data {one}."
        )
