from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wordflock.data import scan
from wordflock.data.listing import Entry, Reader, list_files
from wordflock.data.scan import Scan, scan_files
from wordflock.errors import WordflockError, WordflockWarning

WriteAudio = Callable[..., Path]
Pack = Callable[..., Path]

SCAN_IN_ANOTHER_PROCESS = """
import os, signal, sys
from pathlib import Path
from wordflock.data import scan
from wordflock.progress import print_line, reporting
scan._BATCH = 8
fatal, look, looked = int(sys.argv[3]), scan._look, []
def counted(entry, data):
    looked.append(entry)
    if 0 < fatal <= len(looked):
        os.kill(os.getpid(), signal.SIGKILL)
    return look(entry, data)
scan._look = counted
with reporting(print_line):
    found = scan.scan_files(sys.argv[1], Path(sys.argv[2]))
print(len(found.recordings))
"""


def command(source: Path, cache: Path, fatal: int = -1) -> list[str]:
    return [sys.executable, "-c", SCAN_IN_ANOTHER_PROCESS, str(source), str(cache), str(fatal)]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, write_audio: WriteAudio) -> Path:
    """60 recordings of one to three tenths of a second."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(60):
        suffix = ("wav", "flac", "ogg")[number % 3]
        write_audio(folder / ("yes", "no")[number % 2] / f"{number}.{suffix}", 0.1 + number % 3 * 0.1)
    return folder


@pytest.fixture
def folder(tmp_path: Path, recordings: Path) -> Path:
    """A copy of the 60 recordings, to change at will."""
    return Path(shutil.copytree(recordings, tmp_path / "words"))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are looked at."""
    looked: list[str] = []
    look = scan._look

    def counted(entry: Entry, data: bytes | None) -> scan._Look:
        looked.append(entry.name)
        return look(entry, data)

    monkeypatch.setattr(scan, "_look", counted)
    return looked


def found(result: Scan) -> dict[str, tuple[str, float, str]]:
    return {
        recording.entry.name: (recording.content, recording.seconds, recording.fault) for recording in result.recordings
    }


def faults(result: Scan) -> dict[str, str]:
    return {recording.entry.name: recording.fault for recording in result.recordings if recording.fault}


def test_content_and_seconds_are_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    result = scan_files(folder, tmp_path / "cache")
    assert len(result.recordings) == 60
    for recording in result.recordings:
        path = folder / recording.entry.name
        assert recording.content == sha256(path.read_bytes()).hexdigest()
        assert recording.seconds == pytest.approx(soundfile.info(path).duration)
        assert not recording.fault


def test_folder_and_archives_give_the_same(folder: Path, tmp_path: Path, pack: Pack) -> None:
    expected = found(scan_files(folder, tmp_path / "cache"))
    for archive in (pack(folder, tmp_path / "words.tar"), pack(folder, tmp_path / "words.tar.gz")):
        assert found(scan_files(archive, tmp_path / "cache")) == expected
        assert found(scan_files(archive, tmp_path / "cache")) == expected


def test_a_second_look_opens_no_file(
    folder: Path, tmp_path: Path, pack: Pack, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "list.txt").write_text("yes/0.wav\n")
    archive = pack(folder, tmp_path / "words.tar.gz")
    sources = (folder, archive)
    first = [scan_files(source, tmp_path / "cache", "list.txt".__eq__) for source in sources]
    assert len(looks) == 2 * 61
    monkeypatch.setattr(scan, "_look_at", None)
    assert scan_files(folder, tmp_path / "cache", "list.txt".__eq__) == first[0]
    monkeypatch.setattr(scan, "list_files", None)
    assert scan_files(archive, tmp_path / "cache", "list.txt".__eq__) == first[1]
    assert first[0].texts == first[1].texts == {"list.txt": "yes/0.wav\n"}


def test_only_what_changed_is_looked_at_again(
    folder: Path, tmp_path: Path, write_audio: WriteAudio, looks: list[str]
) -> None:
    before = found(scan_files(folder, tmp_path / "cache"))
    looks.clear()
    write_audio(folder / "yes" / "0.wav", 0.7)
    os.utime(folder / "no" / "1.flac", ns=(0, 0))
    (folder / "no" / "3.wav").unlink()
    after = found(scan_files(folder, tmp_path / "cache"))
    assert sorted(looks) == ["no/1.flac", "yes/0.wav"]
    assert after["yes/0.wav"][1] == 0.7
    unchanged = before.keys() - {"yes/0.wav", "no/3.wav"}
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert "no/3.wav" not in after


def test_a_repacked_archive_is_listed_and_looked_at_again(folder: Path, tmp_path: Path, pack: Pack) -> None:
    archive = pack(folder, tmp_path / "words.tar")
    scan_files(archive, tmp_path / "cache")
    (folder / "yes" / "0.wav").unlink()
    pack(folder, archive)
    assert found(scan_files(archive, tmp_path / "cache")) == found(scan_files(folder, tmp_path / "other"))
    with closing(sqlite3.connect(tmp_path / "cache" / "files.sqlite")) as files:
        assert files.execute("SELECT COUNT(*) FROM files").fetchone() == (59,)


def test_an_archive_is_read_in_the_order_it_was_packed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "words.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.glob("*/*"), reverse=True):
            tar.add(path, path.relative_to(folder))
    offsets: list[int] = []
    read = scan._read

    def noted(entry: Entry, reader: Reader) -> bytes | None:
        offsets.append(entry.offset)
        return read(entry, reader)

    monkeypatch.setattr(scan, "_read", noted)
    assert found(scan_files(archive, tmp_path / "cache")) == found(scan_files(folder, tmp_path / "other"))
    assert offsets[:60] == sorted(offsets[:60])


def test_data_sets_in_one_cache_do_not_mix(folder: Path, tmp_path: Path, write_audio: WriteAudio) -> None:
    for name in ("words2", "words-other", "word"):
        write_audio(tmp_path / name / "yes" / "0.wav", 0.5)
    for _ in range(2):
        assert len(scan_files(folder, tmp_path / "cache").recordings) == 60
        for name in ("words2", "words-other", "word"):
            assert found(scan_files(tmp_path / name, tmp_path / "cache"))["yes/0.wav"][1] == 0.5
        assert len(scan_files(folder / "yes", tmp_path / "cache").recordings) == 30


@pytest.mark.parametrize("suffix", ["", ".tar", ".tar.gz"])
def test_every_kind_of_fault_is_found_and_remembered(
    suffix: str, tmp_path: Path, write_audio: WriteAudio, pack: Pack, looks: list[str]
) -> None:
    folder = tmp_path / "words"
    wav = write_audio(folder / "yes" / "good.wav", 1.0).read_bytes()
    flac = write_audio(folder / "yes" / "good.flac", 1.0).read_bytes()
    write_audio(folder / "yes" / "short.wav", 0.09)
    nan = BytesIO()
    soundfile.write(nan, np.full(8000, np.nan), 16_000, format="WAV", subtype="FLOAT")
    for name, data in {
        "cut.wav": wav[: len(wav) // 2],
        "cut.flac": flac[: len(flac) // 2],
        "empty.wav": b"",
        "text.wav": b"This is a text.\n" * 99,
        "nan.wav": nan.getvalue(),
        "phone.m4a": b"\0\0\0\x20ftypM4A " + bytes(4000),
        "notes.txt": b"This is a text.\n",
    }.items():
        (folder / "yes" / name).write_bytes(data)
    source = pack(folder, tmp_path / f"words{suffix}") if suffix else folder
    for _ in range(2):
        result = scan_files(source, tmp_path / "cache")
        assert faults(result) == {
            "yes/cut.flac": "is damaged or cut short",
            "yes/cut.wav": "is cut short",
            "yes/empty.wav": "is empty",
            "yes/nan.wav": "holds samples that are not numbers (NaN or infinity)",
            "yes/phone.m4a": "is MPEG-4 audio or video (M4A, MP4, 3GP), which cannot be read here",
            "yes/short.wav": "lasts 0.090 s, less than 0.1 s",
            "yes/text.wav": "is not audio that can be read (WAV, FLAC, OGG, MP3, AIFF, AU)",
        }
        assert len(looks) == len(result.recordings) == 9


def test_what_cannot_be_read_now_is_tried_again(folder: Path, tmp_path: Path, looks: list[str]) -> None:
    (folder / "yes" / "link.wav").symlink_to(tmp_path / "nowhere.wav")
    for _ in range(2):
        assert faults(scan_files(folder, tmp_path / "cache")) == {"yes/link.wav": "cannot be read"}
    assert looks.count("yes/link.wav") == 2


def test_names_of_stray_bytes_are_remembered(
    tmp_path: Path, write_audio: WriteAudio, pack: Pack, looks: list[str]
) -> None:
    name = os.fsdecode(b"yes/\xff.wav")
    (tmp_path / "words" / "yes").mkdir(parents=True)
    (tmp_path / "words" / name).write_bytes(write_audio(tmp_path / "a.wav").read_bytes())
    for source in (tmp_path / "words", pack(tmp_path / "words", tmp_path / "words.tar")):
        looks.clear()
        for _ in range(2):
            assert list(found(scan_files(source, tmp_path / "cache"))) == [name]
        assert looks == [name]


def garbage(database: Path) -> None:
    database.write_bytes(os.urandom(5000))


def cut(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def zeros_inside(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(database.stat().st_size - 4096))


@pytest.mark.parametrize("damage", [garbage, cut, zeros_inside])
def test_a_damaged_cache_is_made_anew_with_a_warning(
    damage: Callable[[Path], None], folder: Path, tmp_path: Path, looks: list[str]
) -> None:
    expected = found(scan_files(folder, tmp_path / "cache"))
    damage(tmp_path / "cache" / "files.sqlite")
    with pytest.warns(WordflockWarning, match=r"files\.sqlite is damaged .* rebuilt\.") as warned:
        assert found(scan_files(folder, tmp_path / "cache")) == expected
    assert len(warned) == 1
    looks.clear()
    assert found(scan_files(folder, tmp_path / "cache")) == expected
    assert not looks


def test_a_cache_of_another_version_is_made_anew(folder: Path, tmp_path: Path, looks: list[str]) -> None:
    scan_files(folder, tmp_path / "cache")
    with closing(sqlite3.connect(tmp_path / "cache" / "files.sqlite")) as files:
        files.execute("ALTER TABLE files RENAME COLUMN content TO something")
        files.execute("PRAGMA user_version = 77")
    assert len(scan_files(folder, tmp_path / "cache").recordings) == 60
    assert len(looks) == 120


def test_a_cache_that_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WordflockError, match=f"^{tmp_path}/file/files.sqlite cannot be used .* name another"):
        scan_files(folder, tmp_path / "file")
    (tmp_path / "cache" / "files.sqlite").mkdir(parents=True)
    with pytest.raises(WordflockError, match="cannot be used"):
        scan_files(folder, tmp_path / "cache")


def test_two_processes_at_once_find_the_same_and_keep_it(
    folder: Path, tmp_path: Path, pack: Pack, looks: list[str]
) -> None:
    cache = tmp_path / "cache"
    for source in (folder, pack(folder, tmp_path / "words.tar.gz")):
        both = [subprocess.Popen(command(source, cache), stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.communicate()[0] for process in both] == ["60\n", "60\n"]
        assert [process.returncode for process in both] == [0, 0]
        scan_files(source, cache)
        assert not looks


def test_a_slower_process_does_not_empty_the_tables_that_a_faster_one_made(
    folder: Path, tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_files(folder, tmp_path / "cache")
    version, stale = scan._version, [0]  # what the slower one saw before it had to wait
    monkeypatch.setattr(scan, "_version", lambda files: stale.pop() if stale else version(files))
    scan_files(folder, tmp_path / "cache")
    assert len(looks) == 60


def test_a_killed_scan_keeps_what_it_had_and_the_next_goes_on(
    folder: Path, tmp_path: Path, pack: Pack, looks: list[str]
) -> None:
    archive, cache = pack(folder, tmp_path / "words.tar.gz"), tmp_path / "cache"
    killed = subprocess.run(command(archive, cache, fatal=30), capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert found(scan_files(archive, cache)) == found(scan_files(folder, tmp_path / "other"))
    assert len(looks) == 60 - 24 + 60  # three batches of eight were kept; the folder is looked at whole


def test_an_interrupted_scan_keeps_what_it_had(
    folder: Path, tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_BATCH", 8)
    read, count = scan._read, iter(range(1, 100))

    def interrupted(entry: Entry, reader: Reader) -> bytes | None:
        if next(count) > 20:
            raise KeyboardInterrupt
        return read(entry, reader)

    monkeypatch.setattr(scan, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan_files(folder, tmp_path / "cache")
    monkeypatch.setattr(scan, "_read", read)
    looks.clear()
    scan_files(folder, tmp_path / "cache")
    assert len(looks) == 60 - 16


def test_progress_is_shown_on_a_terminal_only(folder: Path, tmp_path: Path) -> None:
    quiet = subprocess.run(command(folder, tmp_path / "quiet"), capture_output=True, text=True, check=True)
    assert (quiet.stdout, quiet.stderr) == ("60\n", "")
    terminal, inner = pty.openpty()
    shown = subprocess.run(
        command(folder, tmp_path / "shown"), stdout=subprocess.PIPE, stderr=inner, env={**os.environ, "TERM": "xterm"}
    )
    os.close(inner)
    assert shown.stdout == b"60\n"
    assert re.search(rb"looking at recordings", os.read(terminal, 1 << 16))
    os.close(terminal)


def test_an_archive_that_breaks_between_listing_and_looking_is_an_error(
    folder: Path, tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(folder, tmp_path / "words.tar")
    listed = list_files(archive)
    os.truncate(archive, 20_000)
    monkeypatch.setattr(scan, "list_files", lambda source: listed)
    with pytest.raises(WordflockError, match="changed since it was listed"):
        scan_files(archive, tmp_path / "cache")


def test_channels_in_opposite_phase_are_told_of_once_for_all_recordings(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    for name in ("a", "b"):
        (tmp_path / "yes").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "yes" / f"{name}.wav", np.stack([sound, -sound], 1), 16_000)
    with pytest.warns(WordflockWarning, match=r"^2 recordings have channels in opposite phase, .* \(the first: yes/a"):
        scan_files(tmp_path, tmp_path / "cache")
