from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.data.listing import Entry, Reader, list_files
from wordflock.errors import WordflockError

Pack = Callable[..., Path]


def write(folder: Path, *names: str) -> Path:
    """Files whose contents are their names, with some bytes more in front to make their sizes differ."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(777 * number) + name.encode())
    return folder


def names(source: Path) -> list[str]:
    return [entry.name for entry in list_files(source).entries]


def contents(source: Path) -> dict[str, bytes]:
    with Reader() as reader:
        return {entry.name: reader.read_bytes(entry) for entry in list_files(source).entries}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "words", "yes/b.wav", "yes/a.wav", "no/c.flac", "no/deep/er/d.wav", "README.md", "ß/ü.wav")


@pytest.mark.parametrize("around", [".", "words", "./words"])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_folder_and_archive_list_and_read_the_same(
    folder: Path, tmp_path: Path, pack: Pack, suffix: str, around: str
) -> None:
    archive = pack(folder, tmp_path / f"words{suffix}", around)
    assert names(folder) == sorted(names(folder))
    assert contents(archive) == contents(folder)
    assert names(archive) == names(folder)
    assert {entry.name: entry.size for entry in list_files(archive).entries} == {
        name: len(data) for name, data in contents(folder).items()
    }


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_reading_at_an_offset_is_what_tarfile_extracts(folder: Path, tmp_path: Path, pack: Pack, suffix: str) -> None:
    archive = pack(folder, tmp_path / f"words{suffix}")
    with tarfile.open(archive) as tar, Reader() as reader:
        for entry in list_files(archive).entries:
            member = tar.extractfile(f"./{entry.name}")
            assert member is not None
            assert reader.read_bytes(entry) == member.read()


def test_long_names_are_whole(tmp_path: Path, pack: Pack) -> None:
    name = f"yes/{'x' * 200}/{'y' * 200}.wav"
    folder = write(tmp_path / "words", name, "no/a.wav")
    for format_ in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "words.tar", "w", format=format_) as tar:
            tar.add(folder, ".")
        assert contents(tmp_path / "words.tar") == contents(folder)


def test_a_gzip_stream_is_decompressed_once_in_rising_offset_order(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "words"
    for number in range(40):
        (folder / "yes").mkdir(parents=True, exist_ok=True)
        (folder / "yes" / f"{number}.wav").write_bytes(os.urandom(100_000))
    archive = pack(folder, tmp_path / "words.tar.gz")
    read = 0

    class CountingGzip(gzip.GzipFile):
        def __init__(self, path: Path) -> None:
            file = path.open("rb")

            class Counting:
                def __getattr__(self, name: str) -> Any:
                    return getattr(file, name)

                def read(self, size: int = -1) -> bytes:
                    nonlocal read
                    data: bytes = file.read(size)
                    read += len(data)
                    return data

            super().__init__(fileobj=Counting())

    monkeypatch.setattr("wordflock.data.archives.gzip.GzipFile", CountingGzip)
    entries = list_files(archive).entries
    assert 0 < read <= archive.stat().st_size + 100_000
    read = 0
    with Reader() as reader:
        for entry in sorted(entries, key=lambda entry: entry.offset):
            assert reader.read_bytes(entry) == (folder / entry.name).read_bytes()
    assert 0 < read <= archive.stat().st_size + 100_000


def test_hidden_files_and_what_is_no_file_are_skipped(tmp_path: Path, pack: Pack) -> None:
    folder = write(tmp_path / "words", "yes/a.wav", "no/b.wav", ".DS_Store", "yes/._a.wav", ".git/c.wav")
    os.mkfifo(folder / "yes" / "pipe.wav")
    (folder / "empty").mkdir()
    assert names(folder) == names(pack(folder, tmp_path / "words.tar")) == ["no/b.wav", "yes/a.wav"]


def test_members_that_climb_or_link_out_and_devices_are_named(tmp_path: Path) -> None:
    path = tmp_path / "words.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, target in (
            ("yes/a.wav", tarfile.REGTYPE, ""),
            ("../up.wav", tarfile.REGTYPE, ""),
            ("/yes/absolute.wav", tarfile.REGTYPE, ""),
            ("yes/../../up.wav", tarfile.REGTYPE, ""),
            ("yes/out.wav", tarfile.SYMTYPE, "/etc/passwd"),
            ("yes/up.wav", tarfile.SYMTYPE, "../../up.wav"),
            ("yes/gone.wav", tarfile.LNKTYPE, "yes/nothing.wav"),
            ("yes/round.wav", tarfile.SYMTYPE, "round.wav"),
            ("yes/device.wav", tarfile.CHRTYPE, ""),
            ("no/b.wav", tarfile.REGTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    assert names(path) == ["no/b.wav", "yes/a.wav", "yes/absolute.wav"]
    reasons = {fault.name: fault.reason for fault in list_files(path).faults}
    out, linked = "has a name that leads out of the archive", "is a link to something outside the archive"
    assert reasons == {
        "../up.wav": out,
        "yes/../../up.wav": out,
        **{f"yes/{name}.wav": linked for name in ("out", "up", "gone", "round")},
        "yes/device.wav": "is neither a file nor a link",
    }


def test_links_inside_a_tar_are_read_as_in_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "words", "yes/a.wav", "no/b.wav", "no/c.wav")
    (folder / "yes" / "hard.wav").hardlink_to(folder / "yes" / "a.wav")
    (folder / "yes" / "soft.wav").symlink_to("../no/b.wav")
    (folder / "yes" / "twice.wav").symlink_to("soft.wav")
    (folder / "maybe").symlink_to("no")
    with tarfile.open(tmp_path / "words.tar", "w") as tar:
        tar.add(folder, ".")
    assert contents(tmp_path / "words.tar") == contents(folder)
    assert {"yes/twice.wav", "maybe/c.wav"} <= set(contents(folder))


@pytest.mark.parametrize("suffix", [".zip", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_other_archives_hold_the_same_files(folder: Path, tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"words{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(folder.rglob("*")):
                packed.write(path, path.relative_to(folder))
    elif suffix == ".tar.zst":
        import pyarrow

        with tarfile.open(tmp_path / "words.tar", "w") as tar:
            tar.add(folder, ".")
        with pyarrow.output_stream(archive, compression="zstd") as stream:
            stream.write((tmp_path / "words.tar").read_bytes())
    else:
        with tarfile.open(archive, f"w:{suffix[5:]}") as tar:
            tar.add(folder, ".")
    assert contents(archive) == contents(folder)
    with Reader() as reader:  # in falling order too
        for entry in list_files(archive).entries[::-1]:
            assert reader.read_bytes(entry) == (folder / entry.name).read_bytes()
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(WordflockError, match="is a broken archive"):
        list_files(archive)


def test_a_zip_names_what_it_cannot_read_and_its_names_are_what_they_were(tmp_path: Path) -> None:
    archive = tmp_path / "words.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("__MACOSX/yes/._a.wav", b"")
        packed.writestr("../up.wav", b"up")
        packed.writestr("zzz/secret.wav", b"secret")
        packed.writestr(zipfile.ZipInfo("no\\b.wav"), b"b")
        packed.writestr("f-u-r/a.wav", b"a")
    data = archive.read_bytes().replace(b"f-u-r", "fu\u0308r"[:2].encode() + b"\xcc\x88r"[0:3])
    encrypted = data.rindex(b"PK\x01\x02", 0, data.rindex(b"zzz/secret")) + 8
    archive.write_bytes(data[:encrypted] + b"\x01" + data[encrypted + 1 :])
    assert names(archive) == ["für/a.wav", "no/b.wav"]
    assert [fault.name for fault in list_files(archive).faults] == ["../up.wav", "zzz/secret.wav"]


def test_of_two_members_with_one_name_the_later_counts(tmp_path: Path) -> None:
    path = tmp_path / "words.tar"
    with tarfile.open(path, "w") as tar:
        for data in (b"old", b"newer"):
            member = tarfile.TarInfo("yes/a.wav")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert contents(path) == {"yes/a.wav": b"newer"}


@pytest.mark.parametrize(
    ("given_names", "expected", "root"),
    [
        (["sc/yes/a.wav", "sc/no/b.wav", "sc/LICENSE"], ["LICENSE", "no/b.wav", "yes/a.wav"], "sc"),
        (["sc/yes/a.wav", "README.md"], ["README.md", "yes/a.wav"], "sc"),
        (["sc/yes/a.wav", "sc/no/b.wav", "c.wav"], ["c.wav", "sc/no/b.wav", "sc/yes/a.wav"], ""),
        (["yes/a.wav", "yes/b.wav"], ["yes/a.wav", "yes/b.wav"], ""),
        (["a/b/c/yes/a.wav", "a/b/c/no/b.wav"], ["no/b.wav", "yes/a.wav"], "a/b/c"),
        (["a/b/yes/a.wav", "a/b/yes/b.wav"], ["yes/a.wav", "yes/b.wav"], "a/b"),
        (["a.wav", "b.wav"], ["a.wav", "b.wav"], ""),
        (["docs/a.txt"], ["docs/a.txt"], ""),
    ],
)
def test_a_lone_folder_around_the_recordings_is_taken_off_the_names(
    given_names: list[str], expected: list[str], root: str, tmp_path: Path, pack: Pack
) -> None:
    folder = write(tmp_path / "data", *given_names)
    for source in (folder, pack(folder, tmp_path / "data.tar.gz")):
        assert names(source) == expected
        assert list_files(source).root == root


def test_links_to_files_and_folders_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", "a.wav", "b.wav")
    folder = write(tmp_path / "words", "no/c.wav")
    (folder / "no" / "a.wav").symlink_to(elsewhere / "a.wav")
    (folder / "yes").symlink_to(elsewhere)
    (folder / "no" / "up").symlink_to(folder)
    (elsewhere / "round").symlink_to(folder / "yes")
    (folder / "no" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert names(folder) == ["no/a.wav", "no/c.wav", "no/gone.wav", "yes/a.wav", "yes/b.wav"]
    assert list_files(folder).source == str(folder)


def test_names_of_stray_bytes_are_listed_and_read(tmp_path: Path, pack: Pack) -> None:
    folder = write(tmp_path / "words", "yes/a.wav", "no/b.wav")
    stray = os.fsdecode(b"no/\xff.wav")
    (folder / stray).write_bytes(b"stray")
    for source in (folder, pack(folder, tmp_path / "words.tar")):
        assert contents(source)[stray] == b"stray"


def test_what_is_missing_or_no_archive_is_named_with_a_remedy(tmp_path: Path) -> None:
    text, empty, gzipped_text = (tmp_path / name for name in ("a.txt", "empty", "a.gz"))
    text.write_text("no archive\n" * 100)
    empty.write_bytes(b"")
    gzipped_text.write_bytes(gzip.compress(b"no archive\n" * 100))
    for path in (text, empty, gzipped_text):
        with pytest.raises(WordflockError, match=f"^{re.escape(str(path))} is not a zip, .+; .+\\.$"):
            list_files(path)
    with pytest.raises(WordflockError, match="does not exist; "):
        list_files(tmp_path / "missing")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(WordflockError, match=f"^{loop} "):
        list_files(loop)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, pack: Pack) -> tuple[Path, bytes, bytes]:
    """A scratch file, and the bytes of one archive, plain and compressed."""
    folder = write(tmp_path_factory.mktemp("packed") / "words", "yes/a.wav", "yes/b.wav", "no/c.wav", "no/d.wav")
    plain = pack(folder, folder.parent / "words.tar").read_bytes()
    compressed = pack(folder, folder.parent / "words.tar.gz").read_bytes()
    return folder.parent / "scratch", plain, compressed


@given(data=st.data())
@settings(max_examples=60)
def test_a_cut_archive_never_passes_for_a_smaller_one(packed: tuple[Path, bytes, bytes], data: st.DataObject) -> None:
    scratch, *archives = packed
    archive = data.draw(st.sampled_from(archives))
    # A plain one is padded with zeros beyond the block that ends it.
    end = len(archive.rstrip(b"\0")) if archive is archives[0] else len(archive) - 1
    scratch.write_bytes(archive[: data.draw(st.integers(1, end))])
    with pytest.raises(WordflockError, match=r"is a broken archive|is not a zip, "):
        list_files(scratch)


def test_damage_inside_an_archive_is_found(packed: tuple[Path, bytes, bytes]) -> None:
    scratch, plain, compressed = packed
    for archive, place in ((plain, plain.index(b"./yes/a.wav")), (compressed, len(compressed) - 6)):  # its CRC
        damaged = bytearray(archive)
        damaged[place] ^= 0xFF
        scratch.write_bytes(damaged)
        with pytest.raises(WordflockError, match="is a broken archive"):
            list_files(scratch)


def test_damage_behind_the_end_mark_of_a_gzip_archive_is_found(packed: tuple[Path, bytes, bytes]) -> None:
    scratch, plain, _ = packed
    damaged = bytearray(gzip.compress(plain + bytes(4_000_000), mtime=0))
    scratch.write_bytes(damaged)
    assert len(list_files(scratch).entries) == 4
    damaged[-6] ^= 0xFF  # in its CRC
    scratch.write_bytes(damaged)
    with pytest.raises(WordflockError, match=r"is a broken archive \(CRC"):
        list_files(scratch)


def test_a_file_that_vanished_or_changed_since_is_refused(folder: Path, tmp_path: Path, pack: Pack) -> None:
    archive = pack(folder, tmp_path / "words.tar.gz")
    of_folder, of_archive = (list_files(source).entries[-1] for source in (folder, archive))

    def refuse(entry: Entry, reason: str) -> None:
        with Reader() as reader, pytest.raises(WordflockError, match=f"^{entry.name} .*{reason}"):
            reader.read_bytes(entry)

    Path(of_folder.path).write_bytes(b"longer than before, by far: " + bytes(9999))
    refuse(of_folder, "changed since")
    Path(of_folder.path).unlink()
    refuse(of_folder, "cannot be read")
    archive.write_bytes(archive.read_bytes()[:200])
    refuse(of_archive, "cannot be read")
    archive.unlink()
    refuse(of_archive, "cannot be read")


@pytest.mark.parametrize("suffix", ["mp4", "weba", "wave", "aifc", "snd", "sph", "mka", "spx", "mp2", "bwf", "rf64"])
def test_a_recording_of_any_kind_is_seen(suffix: str) -> None:
    assert Entry(f"yes/A.{suffix.upper()}", "", 0, 1, 0).is_audio
