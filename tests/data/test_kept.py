"""Tables kept in the cache: equal to those made from the files, and never used after any change."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from wordflock.data import kept, loading
from wordflock.data.clips import ClipTable
from wordflock.data.loading import load_clips
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.progress import reporting


@pytest.fixture
def folder(tmp_path: Path, write_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set with a background recording, a fault, a list, odd names and files that were written long ago."""
    for word in ("yes", "für", "no\nbreak"[:2]):
        for speaker in "abcdef":
            write_audio(tmp_path / "words" / word / f"{speaker}_nohash_0\n{word}.wav")
    write_audio(tmp_path / "words" / "_background_noise_" / "tap.wav", seconds=1.0)
    (tmp_path / "words" / "yes" / "bad.wav").write_bytes(b"nothing")
    (tmp_path / "words" / "testing_list.txt").write_text("yes/a_nohash_0\nyes.wav\n")
    monkeypatch.setattr(kept, "MIN_KEPT", 1)
    monkeypatch.setattr(kept, "SETTLED", 0.0)
    return tmp_path / "words"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources whose tables were made, and not found."""
    sources: list[str] = []
    real = loading.table_of

    def table_of(scan: object, **options: object) -> ClipTable:
        sources.append(scan.listing.source)  # type: ignore[attr-defined]
        return real(scan, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "table_of", table_of)
    return sources


def said_by(work: Callable[[], ClipTable]) -> tuple[ClipTable, list[str], list[str]]:
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught, reporting(lines.append):
        warnings.simplefilter("always")
        table = work()
    return table, lines, [str(one.message) for one in caught]


def test_a_second_start_gives_the_same_table_and_says_the_same(folder: Path, tmp_path: Path, made: list[str]) -> None:
    first = said_by(lambda: load_clips(folder, cache=tmp_path / "cache"))
    again = said_by(lambda: load_clips(folder, cache=tmp_path / "cache"))
    assert again == first and len(made) == 1 and first[1] and any("bad.wav" in line for line in first[2])
    (file,) = (tmp_path / "cache" / "tables").iterdir()
    assert file.stat().st_mode & 0o077 == 0 == file.parent.stat().st_mode & 0o077


def rewritten_in_place(folder: Path) -> None:
    """Other bytes of the same length, and the old time of change."""
    file = next((folder / "yes").glob("b*.wav"))
    about, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)


def replaced(folder: Path) -> None:
    file = next((folder / "yes").glob("b*.wav"))
    shutil.copy(next((folder / "yes").glob("c*.wav")), folder.parent / "aside")
    os.utime(folder.parent / "aside", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    (folder.parent / "aside").replace(file)


def moved(folder: Path) -> None:
    (folder / "yes").rename(folder / "yeah")


def listed(folder: Path) -> None:
    (folder / "testing_list.txt").write_text("yes/b_nohash_0\nyes.wav\n")


def deleted(folder: Path) -> None:
    next((folder / "yes").glob("b*.wav")).unlink()


def added(folder: Path) -> None:
    shutil.copy(next((folder / "yes").glob("b*.wav")), folder / "yes" / "z_nohash_0.wav")


@pytest.mark.parametrize("change", [rewritten_in_place, replaced, moved, listed, deleted, added])
def test_no_change_is_missed(change: Callable[[Path], None], folder: Path, tmp_path: Path, made: list[str]) -> None:
    load_clips(folder, cache=tmp_path / "cache")
    change(folder)
    assert load_clips(folder, cache=tmp_path / "cache") == load_clips(folder, cache=tmp_path / "other")
    assert len(made) == 3


def test_other_options_and_other_code_are_other_tables(
    folder: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, table = tmp_path / "cache", tmp_path / "table.csv"
    (table).write_text("file,speaker\n" + "".join(f'"{p.relative_to(folder)}",x\n' for p in folder.glob("yes/[a-f]*")))
    usual = load_clips(folder, cache=cache, layout="folders")
    told = load_clips(folder, cache=cache, layout="folders", table=str(table))
    assert usual != told and "x" in {clip.speaker for clip in told.clips}
    table.write_text(table.read_text().replace(",x", ",y"))
    assert "y" in {clip.speaker for clip in load_clips(folder, cache=cache, layout="folders", table=str(table)).clips}
    assert load_clips(folder, cache=cache, layout="folders") == usual and len(made) == 3
    monkeypatch.setattr(kept, "code", lambda: "newer")
    assert load_clips(folder, cache=cache, layout="folders") == usual and len(made) == 4


def test_a_damaged_table_is_made_again_and_a_full_cache_does_not_matter(
    folder: Path, tmp_path: Path, made: list[str]
) -> None:
    first = load_clips(folder, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "tables").iterdir()
    whole = file.read_bytes()
    for place in (10, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert load_clips(folder, cache=tmp_path / "cache") == first
    file.write_bytes(whole[:-5])
    assert load_clips(folder, cache=tmp_path / "cache") == first
    assert len(made) == 5
    shutil.rmtree(tmp_path / "cache" / "tables")
    (tmp_path / "cache" / "tables").write_text("in the way")
    assert load_clips(folder, cache=tmp_path / "cache") == first and len(made) == 6


def test_what_just_changed_or_could_not_be_read_is_not_kept(
    folder: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "SETTLED", 3600.0)
    for _ in range(2):
        load_clips(folder, cache=tmp_path / "cache")
    assert len(made) == 2
    monkeypatch.setattr(kept, "SETTLED", 0.0)
    (folder / "yes" / "gone.wav").symlink_to("nowhere")
    for _ in range(2):
        with pytest.warns(WordflockWarning, match="cannot be read"):
            load_clips(folder, cache=tmp_path / "cache")
    assert len(made) == 4 and not (tmp_path / "cache" / "tables").exists()


def test_an_archive_s_table_is_kept_as_well(
    folder: Path, tmp_path: Path, made: list[str], pack: Callable[..., Path]
) -> None:
    archive = pack(folder, tmp_path / "words.tar")
    first = load_clips(archive, cache=tmp_path / "cache")
    assert load_clips(archive, cache=tmp_path / "cache") == first and len(made) == 1
    assert load_clips([archive, folder], cache=tmp_path / "cache").clips and len(made) == 2
    os.utime(archive, ns=(time.time_ns(), archive.stat().st_mtime_ns))
    assert load_clips(archive, cache=tmp_path / "cache") == first


def test_the_last_tables_stay_and_older_ones_go(
    folder: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MAX_TABLES", 2)
    for few in (0, 1, 2, 2, 1):
        load_clips(folder, cache=tmp_path / "cache", few=few)
    assert len(made) == 3 and len(list((tmp_path / "cache" / "tables").iterdir())) == 2


def test_sources_that_are_not_there_are_said_as_before(tmp_path: Path) -> None:
    with pytest.raises(WordflockError, match="does not exist"):
        load_clips(tmp_path / "missing", cache=tmp_path / "cache")
