"""Archives, lists and patterns that would fill the memory or take for ever are refused, and say which bound it is."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.data import bounds, scan
from wordflock.data.listing import list_files
from wordflock.data.loading import load_clips
from wordflock.data.scan import scan_files
from wordflock.data.speech_commands import SPEAKER_PATTERN
from wordflock.errors import WordflockError

WriteAudio = Callable[..., Path]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_of_gigabytes_is_refused_unread(kind: bytes, packed: bool, tmp_path: Path) -> None:
    content = header("././@LongLink", 6 << 30, kind) + bytes(5000)
    path = tmp_path / ("a.tar.gz" if packed else "a.tar")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(WordflockError, match=r"has members with headers of more than 1,048,576 bytes"):
        list_files(path)


SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"


def extended(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("pax", len(content), kind) + content + bytes(-len(content) % 512)


def negative(size: int) -> bytes:
    """A header with a size below zero, as base 256 allows."""
    content = bytearray(header("yes/1.wav", 0))
    content[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 256 + sum(content[156:]))
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        extended(b"9" * 1_000_000),
        extended(b"1000015 comment=" + b"9" * 999_998 + b"\n"),
        extended(b"3 " * 400_000 + b"="),
        extended(b"0 a=b\n"),
        extended(b"7 a=bc\n8 c"),
        extended(b"13 size=-512\n"),
        negative(-512),
        negative(-1536),
        negative(-(2**60)),
        extended(SPARSE) + header("yes/1.wav", 1 << 30) + b"999999999\n" + b"0\n" * 1_000_000,
        extended(b"") * 3000,
        header("././@LongLink", 0, tarfile.GNUTYPE_LONGNAME) * 3000,
        (extended(b"12 mtime=1.0\n" * 20_000) + header("yes/1.wav", 0)) * 10,
    ],
    ids=lambda content: f"{content[512:530]!r}",
)
def test_headers_that_tarfile_takes_long_for_are_refused(content: bytes, tmp_path: Path) -> None:
    whole = header("yes/0.wav", 0)
    (tmp_path / "a.tar").write_bytes(whole + content + whole + bytes(10_240))
    with pytest.raises(WordflockError, match=r"broken archive|headers of more than"):
        list_files(tmp_path / "a.tar")


def test_headers_for_all_members_do_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `git archive` writes is read; and what each of many would add is forgotten."""
    known: list[int] = []
    monkeypatch.setattr(
        bounds.BoundedMember, "_apply_pax_info", lambda member, headers, *_: known.append(len(headers)), raising=True
    )
    members = [extended(b"%d a%04d=b\n" % (11, n), tarfile.XGLTYPE) + header(f"yes/{n}.wav", 0) for n in range(50)]
    (tmp_path / "a.tar").write_bytes(b"".join(members) + bytes(10_240))
    assert len(list_files(tmp_path / "a.tar").entries) == 50
    assert max(known) == 1


def test_what_follows_the_end_of_an_archive_does_not_expand_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_UNPACKED", 1 << 20)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header("yes/1.wav", 0) + bytes(10_240)) + gzip.compress(bytes(8 << 20)))
    with pytest.raises(WordflockError, match="expands to over"):
        list_files(path)


def test_members_that_are_no_files_are_named(tmp_path: Path) -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    members = [header(f"yes/{number}.wav", 0, kind) for number, kind in enumerate(kinds)]
    (tmp_path / "a.tar").write_bytes(header("yes/9.wav", 0) + b"".join(members) + bytes(10_240))
    faults = list_files(tmp_path / "a.tar").faults
    assert [(fault.name, fault.reason) for fault in faults] == [
        (f"yes/{number}.wav", "is neither a file nor a link") for number in range(3)
    ]


def test_an_archive_that_expands_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header("yes/a.bin", 100 << 30) + bytes(5000)))
    with pytest.raises(WordflockError, match=r"expands to over 1,073,741,824 bytes, 100 times its size"):
        list_files(path)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_of_too_many_files_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_FILES", 100)
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(101):
                archive.writestr(f"yes/{number}.wav", b"")
    else:
        path.write_bytes(b"".join(header(f"yes/{number}.wav", 0) for number in range(101)) + bytes(10_240))
    with pytest.raises(WordflockError, match="holds more than 100 files"):
        list_files(path)


def test_links_do_not_multiply_the_files_of_an_archive(tmp_path: Path) -> None:
    members = [header(f"yes/{number}.wav", 0) for number in range(1000)]
    for number in range(1000):
        link = tarfile.TarInfo(f"l{number}")
        link.type, link.linkname = tarfile.SYMTYPE, "yes"
        members.append(link.tobuf(tarfile.GNU_FORMAT))
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(members) + bytes(10_240))
    with pytest.raises(WordflockError, match="holds more than 500,000 files"):
        list_files(path)


def test_links_do_not_multiply_the_files_of_a_folder(tmp_path: Path) -> None:
    for level in range(30):
        (tmp_path / str(level)).mkdir()
        for side in "ab":
            (tmp_path / str(level) / side).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "30").mkdir()
    with pytest.raises(WordflockError, match="has more than 100 ways to its folder"):
        list_files(tmp_path / "0")


def test_a_recording_that_many_rows_repeat_is_in_memory_once(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = pyarrow.array([{"bytes": bytes(8 << 20), "path": "a.wav"}] * 30, type=kind)
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"audio": rows}), path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 10_000
    before = pyarrow.default_memory_pool()
    watched = pyarrow.proxy_memory_pool(before)
    pyarrow.set_memory_pool(watched)
    try:
        assert len(list_files(path).entries) == 30
    finally:
        pyarrow.set_memory_pool(before)
    assert 0 < watched.max_memory() < 8 * (8 << 20)


def test_a_name_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("yes/" + "a" * 200_000 + ".wav"), io.BytesIO())
    with pytest.raises(WordflockError, match="a member whose name is longer than 1,024 characters"):
        list_files(path)


def test_recordings_and_lists_that_are_too_large_are_not_read(
    tmp_path: Path, write_audio: WriteAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "a" / "yes" / "1.wav")
    with (tmp_path / "a" / "yes" / "2.wav").open("wb") as file:
        file.truncate(bounds.MAX_RECORDING + 1)  # takes no room on the disk
    found = scan_files(tmp_path / "a", tmp_path / "cache")
    assert [recording.fault for recording in found.recordings] == [
        "",
        "is larger than 256 MiB; cut it into shorter files",
    ]
    monkeypatch.setattr(scan, "MAX_LIST", 1000)
    (tmp_path / "a" / "speakers.csv").write_text("file,speaker\n" * 1000)
    with pytest.raises(WordflockError, match="is larger than 0 MiB; shorten the list"):
        load_clips(tmp_path / "a", cache=tmp_path / "cache")


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a*)*c", "(.*a){20}()z"])
def test_a_pattern_that_takes_for_ever_is_ended(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PATTERN_SECONDS", 0.5)
    with pytest.raises(WordflockError, match="takes longer than 0 s on 1 names; write it without repetitions inside"):
        bounds.search_all(pattern, ["a" * 200])


@settings(max_examples=10)
@given(names=st.lists(st.text(alphabet="ab_/é\udcff", max_size=12), max_size=5))
def test_a_pattern_finds_the_same_in_a_process_of_its_own(names: list[str]) -> None:
    pattern = r"^(?P<speaker>a+)_"
    expected = [found["speaker"] if (found := re.search(pattern, name)) else "" for name in names]
    assert bounds.search_all(pattern, names) == expected


@given(
    parts=st.lists(st.sampled_from(["_unknown_", "_nohash_", "ab", "/", "_", "backward", ".wav"]), max_size=12),
)
def test_the_usual_pattern_finds_what_it_always_found_in_time_that_grows_with_the_name(parts: list[str]) -> None:
    name = "".join(parts)
    if "_unknown_" in name.replace("/_unknown_", "/") and not name.startswith("_unknown_"):
        return  # "_unknown_" within the name of a folder
    before = re.search(r"(?:_unknown_/[^_/]+_)?([^/]+?)_nohash_", name)
    now = re.search(SPEAKER_PATTERN, name)
    assert (before and before[1]) == (now and now[1])
    assert re.search(SPEAKER_PATTERN, "a" * 100_000) is None
