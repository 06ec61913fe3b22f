from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scans import scan_of

from wordflock.audio.reading import read_clip
from wordflock.data.clips import Clip, ClipTable
from wordflock.data.loading import load_clips, read_samples, table_of
from wordflock.data.speech_commands import which_split
from wordflock.errors import WordflockError, WordflockWarning

WriteAudio = Callable[..., Path]
Pack = Callable[..., Path]
Rows = list[dict[str, str]]


def by_name(table: ClipTable) -> dict[str, tuple[str, str, str]]:
    return {clip.name: (clip.word, clip.speaker, clip.split) for clip in table.clips}


def write_csv(path: Path, rows: Rows, encoding: str = "utf-8") -> str:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_parquet(path: Path, rows: Rows) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


NAMES = ("yes/alice-1.wav", "yes/bob-1.wav", "no/alice-2.wav", "no/deeper/carol-1.wav")


@pytest.mark.parametrize("pattern", [r"^([a-z]+)-\d", r"^(?P<speaker>[a-z]+)-", r"(-)?(?P<speaker>[a-z]+)-"])
def test_the_label_is_the_first_folder_and_the_pattern_finds_the_speaker(pattern: str) -> None:
    assert by_name(table_of(scan_of(*NAMES), pattern)) == {
        "yes/alice-1.wav": ("yes", "alice", which_split("alice")),
        "yes/bob-1.wav": ("yes", "bob", which_split("bob")),
        "no/alice-2.wav": ("no", "alice", which_split("alice")),
        "no/deeper/carol-1.wav": ("no", "carol", which_split("carol")),
    }


def test_a_pattern_with_a_slash_sees_the_folders() -> None:
    table = table_of(scan_of("yes/alice/1.wav", "no/alice/1.wav", "no/bob/1.wav"), "^[^/]+/([^/]+)/")
    assert [clip.speaker for clip in table.clips] == ["alice", "bob", "alice"]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["yes", "no", "up"]), st.sampled_from("abcdefgh"), st.integers(0, 9)),
        st.sampled_from(["1", "2", "3", "4"]),
        min_size=1,
    )
)
def test_neither_a_speaker_nor_an_unknown_content_crosses_splits(spoken: dict[tuple[str, str, int], str]) -> None:
    contents = {f"{word}/{speaker}-{number}.wav": content for (word, speaker, number), content in spoken.items()}
    scan = scan_of(*contents, contents=contents)
    where = defaultdict(set)
    for clip in table_of(scan, r"^(.)-").clips:
        where[clip.speaker].add(clip.split)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WordflockWarning)
        unknown = table_of(scan)
    for clip in unknown.clips:
        assert clip.speaker == ""
        where[clip.content].add(clip.split)
    assert all(len(splits) == 1 for splits in where.values())


def test_unknown_speakers_are_warned_of_once_and_only_where_it_matters() -> None:
    with pytest.warns(WordflockWarning, match="who speaks in 4 clips") as warned:
        table_of(scan_of(*NAMES))
    assert len(warned) == 1
    with pytest.warns(WordflockWarning, match="who speaks in 1 clip"):
        table_of(scan_of(*NAMES, "yes/7.wav"), r"^([a-z]+)-")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table_of(scan_of(*NAMES), r"^([a-z]+)-")
        table_of(scan_of("train/yes/1.wav", "test/yes/2.wav"))


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [("(", "is not a regular expression"), ("alice", "has no group"), (r"(\d{9})", "finds no speaker in any file")],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, complaint: str) -> None:
    with pytest.raises(WordflockError, match=f"^The speaker pattern '{re.escape(pattern)}' {complaint}.*\\.$"):
        table_of(scan_of(*NAMES), pattern)


def test_folders_named_after_splits_name_the_split() -> None:
    names = [f"{top}/yes/{top}-1.wav" for top in ("Train", "training", "valid", "val", "dev", "test", "testing")]
    noise = ["_background_noise_/wind.wav", "train/_background_noise_/tap.wav"]
    table = table_of(scan_of(*names, *noise, "test/stray.wav", "stray.wav"))
    assert {clip.word for clip in table.clips} == {"yes"}
    assert Counter(clip.split for clip in table.clips) == {"train": 2, "validation": 3, "test": 2}
    assert [clip.name for clip in table.background] == noise
    assert [fault.name for fault in table.faults] == ["stray.wav", "test/stray.wav"]


def test_a_lone_split_folder_around_everything_names_the_split_too(
    tmp_path: Path, write_audio: WriteAudio, pack: Pack
) -> None:
    for name in ("test/yes/1.wav", "test/no/2.wav"):
        write_audio(tmp_path / "data" / name)
    for source in (tmp_path / "data", pack(tmp_path / "data", tmp_path / "data.tar")):
        table = load_clips(source, cache=tmp_path / "cache")
        assert {(clip.word, clip.split) for clip in table.clips} == {("yes", "test"), ("no", "test")}


def test_train_and_test_are_words_only_where_the_user_says_so() -> None:
    scan = scan_of("train/a-1.wav", "test/a-2.wav", "stop/a-3.wav")
    with pytest.raises(WordflockError, match=r"recordings right in test and train \(such as test/a-2.wav\)"):
        table_of(scan, r"^(.)-")
    table = table_of(scan, r"^(.)-", layout="folders")
    assert {clip.word for clip in table.clips} == {"train", "test", "stop"}


ROWS = [
    {"file": "yes/alice-1.wav", "speaker": "Alice", "split": "train", "word": ""},
    {"file": "./yes/bob-1.wav", "speaker": "", "split": "valid", "word": "yeah"},
    {"file": "top.wav", "speaker": "", "split": "", "word": "up"},
    {"file": "not/there.wav", "speaker": "", "split": "test", "word": ""},
]


def test_a_table_wins_and_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    scan = scan_of(*NAMES, "top.wav")
    tables = [
        table_of(scan, r"^([a-z]+)(-|\.)", table)
        for table in (
            write_csv(tmp_path / "a.csv", ROWS),
            write_csv(tmp_path / "b.csv", ROWS, encoding="utf-8-sig"),
            write_parquet(tmp_path / "c.parquet", ROWS),
        )
    ]
    assert tables[0] == tables[1] == tables[2]
    assert by_name(tables[0]) == {
        "yes/alice-1.wav": ("yes", "Alice", "train"),
        "yes/bob-1.wav": ("yeah", "bob", "validation"),
        "no/alice-2.wav": ("no", "alice", which_split("alice")),
        "no/deeper/carol-1.wav": ("no", "carol", which_split("carol")),
        "top.wav": ("up", "top", which_split("top")),
    }


def test_a_table_may_name_files_with_the_folder_around_them(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "a.csv", [{"file": "words/yes/alice-1.wav", "speaker": "Alice"}])
    with pytest.warns(WordflockWarning, match="who speaks in 3 clips"):
        assert by_name(table_of(scan_of(*NAMES, root="words"), "", table))["yes/alice-1.wav"][1] == "Alice"


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"file": "yes/bob-1.wav", "split": "holdout"}], "has the split 'holdout'; call it train, validation or test"),
        ([{"name": "yes/bob-1.wav", "split": "test"}], "has the columns name, split; it needs file and any of"),
        ([{"file": "yes/bob-1.wav"}], "has the columns file; it needs file and any of"),
        ([{"file": "eve-1.wav", "split": "test"}], "has no row for any file .* named no/alice-2.wav"),
        ([{"file": "yes/bob-1.wav", "split": "test"}] * 2, "has two rows for the file yes/bob-1.wav"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_that_cannot_be_used_is_refused(kind: str, rows: Rows, complaint: str, tmp_path: Path) -> None:
    table = (write_csv if kind == "csv" else write_parquet)(tmp_path / f"table.{kind}", rows)
    with pytest.raises(WordflockError, match=f"{re.escape(table)} {complaint}.*\\.$"):
        table_of(scan_of(*NAMES), "", table)


@pytest.mark.parametrize("name", ["missing.csv", "missing.parquet", "broken.csv", "broken.parquet", "empty.csv"])
def test_a_table_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken.csv").write_bytes(b"file,speaker\n\xff\xfe,\x00\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(WordflockError, match=f"^The table {tmp_path / name} .*\\.$"):
        table_of(scan_of(*NAMES), "", str(tmp_path / name))


@pytest.fixture
def words(tmp_path: Path, write_audio: WriteAudio) -> Path:
    """Two labels, and nothing that names speakers."""
    for name in ("yes/1.wav", "yes/2.flac", "no/3.wav", "no/4.wav", "_background_noise_/tap.wav"):
        write_audio(tmp_path / "words" / name, seconds=0.3, rate=8000)
    return tmp_path / "words"


@pytest.mark.filterwarnings("ignore:.*who speaks")
def test_clips_of_a_folder_and_their_samples(words: Path, tmp_path: Path) -> None:
    table = load_clips(str(words), cache=tmp_path / "cache")
    assert table.protocol == "folder" and table.source == str(words)
    assert [clip.name for clip in table.clips] == ["no/3.wav", "no/4.wav", "yes/1.wav", "yes/2.flac"]
    assert [clip.name for clip in table.background] == ["_background_noise_/tap.wav"]
    backwards = table.clips[::-1]
    for clip, samples in zip(backwards, read_samples(iter(backwards)), strict=True):
        assert np.array_equal(samples, read_clip(words / clip.name)) and len(samples) == 4800
        assert clip.seconds == 0.3


def test_speech_commands_with_a_pattern_or_table_are_read_as_a_folder(
    small_speech_commands: Path, tmp_path: Path
) -> None:
    by_list = load_clips(small_speech_commands, cache=tmp_path)
    by_hash = load_clips(small_speech_commands, cache=tmp_path, speaker_pattern="^([0-9a-f]+)_")
    table = write_csv(tmp_path / "t.csv", [{"file": clip.name, "split": "test"} for clip in by_list.clips])
    by_table = load_clips(small_speech_commands, cache=tmp_path, table=table)
    assert {clip.split for clip in by_table.clips} == {"test"}
    assert all(clip.split == which_split(clip.speaker) for clip in by_hash.clips)
    for one in (by_hash, by_table):
        assert one.protocol == "speech_commands" and one.background == by_list.background
        assert [(c.name, c.word, c.speaker) for c in one.clips] == [(c.name, c.word, c.speaker) for c in by_list.clips]


@pytest.mark.filterwarnings("ignore:.*who speaks")
def test_all_faults_are_named_in_one_warning(words: Path, tmp_path: Path, write_audio: WriteAudio) -> None:
    write_audio(words / "at the top.wav")
    for number in range(6):
        (words / "yes" / f"broken {number}.wav").write_bytes(b"This is a text.")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        table = load_clips(words, cache=tmp_path / "cache")
    messages = [str(warning.message) for warning in warned if "left out" in str(warning.message)]
    broken = ", ".join(
        f"yes/broken {number}.wav (is not audio that can be read (WAV, FLAC, OGG, MP3, AIFF, AU))"
        for number in range(4)
    )
    assert messages == [
        f"7 recordings are left out, of 12 in {words}: "
        f"at the top.wav (stands in no folder named after its word), {broken} and 2 more."
    ]
    assert len(table.faults) == 7 and len(table.clips) == 4


def test_a_data_set_without_a_usable_clip_is_refused(tmp_path: Path, write_audio: WriteAudio) -> None:
    source = tmp_path / "words"
    source.mkdir()
    with pytest.raises(WordflockError, match=f"^{source} holds no usable clip; .*\\.$"):
        load_clips(source, cache=tmp_path / "cache")
    write_audio(source / "a.wav")
    with pytest.raises(WordflockError, match=rf"^{source} holds no usable clip \(a.wav \(stands in no folder"):
        load_clips(source, cache=tmp_path / "cache")


@pytest.mark.filterwarnings("ignore:.*who speaks")
@pytest.mark.parametrize("suffix", ["", ".tar"])
def test_recordings_that_vanished_or_changed_are_refused(suffix: str, words: Path, tmp_path: Path, pack: Pack) -> None:
    source = pack(words, tmp_path / "words.tar") if suffix else words
    clip = next(clip for clip in load_clips(source, cache=tmp_path / "cache").clips if clip.name == "yes/1.wav")

    def refused(clip: Clip, reason: str) -> None:
        with pytest.raises(WordflockError, match=f"^yes/1.wav .*{reason}.*\\.$"):
            next(read_samples([clip]))

    assert len(next(read_samples([clip]))) == 4800
    with Path(clip.path).open("r+b") as file:  # another recording of the same length
        file.seek(clip.offset + 100)
        file.write(os.urandom(64))
    refused(clip, "changed since")
    Path(clip.path).unlink()
    refused(clip, "cannot be read")


def test_the_package_imports_no_audio_library() -> None:
    heavy = "{'soundfile', 'soxr', 'pyarrow', 'torch', 'rich'}"
    code = f"import sys, wordflock.data; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
