"""Recordings as many tools lay them out: found, read, and refused where they could be read in two ways."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scans import scan_of

from wordflock.data.clips import ClipTable
from wordflock.data.layouts import LAYOUTS
from wordflock.data.loading import load_clips, read_samples, table_of
from wordflock.errors import WordflockError, WordflockWarning, counted
from wordflock.progress import reporting
from wordflock.settings import LAYOUTS as NAMES

pytestmark = pytest.mark.filterwarnings("ignore:.*who speaks", "ignore:.*are left out")

WriteAudio = Callable[..., Path]
Said = dict[str, tuple[str, str, str]]  # by the recording's name: word, speaker, split

MSWC = "SET,LINK,WORD,VALID,SPEAKER,GENDER\nTRAIN,ja/a.opus,ja,True,s1,MALE\nDEV,nein/b.opus,nein,True,s2,FEMALE\n"
COMMON_VOICE = "client_id\tpath\tsentence\tup_votes\n"
NEMO = '{"audio_filepath": "/home/anna/wavs/1.wav", "duration": 1.0, "command": "yes"}\n'

# The title of a layout, recordings, tables beside them, and what they say.
CASES: dict[str, tuple[list[str], dict[str, str], Said]] = {
    "Edge Impulse": (
        ["training/yes.1ab.wav", "training/yes.2ab.wav", "testing/no.3ab.wav.4.wav", "training/no.5ab.wav"],
        {},
        {"training/yes.1ab.wav": ("yes", "", "train"), "testing/no.3ab.wav.4.wav": ("no", "", "test")},
    ),
    "files named label_speaker_number": (
        [f"recordings/{digit}_{name}_{n}.wav" for digit in "01" for name in ("anna_b", "bob") for n in range(3)],
        {},
        {"recordings/0_anna_b_2.wav": ("0", "anna_b", ""), "recordings/1_bob_0.wav": ("1", "bob", "")},
    ),
    "labels with a test folder beside": (
        [f"{split}{word}/{n}.wav" for split in ("", "test/") for word in ("wake-word", "not-wake-word") for n in "12"],
        {},
        {"wake-word/1.wav": ("wake-word", "", "train"), "test/not-wake-word/2.wav": ("not-wake-word", "", "test")},
    ),
    "folders of splits": (
        ["Train_Set/yes/1.wav", "VALIDATION/yes/2.wav", "test-data/no/3.wav", "eval/no/4.wav", "dev/no/deep/5.wav"],
        {},
        {
            "Train_Set/yes/1.wav": ("yes", "", "train"),
            "VALIDATION/yes/2.wav": ("yes", "", "validation"),
            "test-data/no/3.wav": ("no", "", "test"),
            "eval/no/4.wav": ("no", "", "test"),
            "dev/no/deep/5.wav": ("no", "", "validation"),
        },
    ),
    "a folder for each label": (
        ["yes/train/1.wav", "yes/test/2.wav", "no/train/3.wav", "no/Testing/4.wav"],
        {},
        {"yes/train/1.wav": ("yes", "", "train"), "no/Testing/4.wav": ("no", "", "test")},
    ),
    "Kaggle's Speech Commands": (
        ["train/audio/yes/a_nohash_0.wav", "train/audio/no/b_nohash_0.wav", "test/audio/clip_1.wav"],
        {"train/validation_list.txt": "no/b_nohash_0.wav\n", "train/testing_list.txt": ""},
        {
            "train/audio/yes/a_nohash_0.wav": ("yes", "a", "train"),
            "train/audio/no/b_nohash_0.wav": ("no", "b", "validation"),
        },
    ),
    "Multilingual Spoken Words": (
        ["ja/a.wav", "nein/b.wav"],
        {"de_splits.csv": MSWC, "de_train.csv": "LINK,WORD,VALID,SPEAKER,GENDER\nja/a.opus,ja,True,s1,MALE\n"},
        {"ja/a.wav": ("ja", "s1", "train"), "nein/b.wav": ("nein", "s2", "validation")},
    ),
    "Common Voice": (
        ["clips/a.mp3", "clips/b.mp3", "clips/c.mp3"],
        {
            "train.tsv": COMMON_VOICE + "s1\ta.mp3\tYes.\t2\n",
            "test.tsv": COMMON_VOICE + 's2\tb.mp3\tHey "you\t2\n',
            "validated.tsv": COMMON_VOICE + "s1\ta.mp3\tYes.\t2\ns3\tc.mp3\tNo.\t2\n",
        },
        {"clips/a.mp3": ("yes", "s1", "train"), "clips/b.mp3": ('hey "you', "s2", "test")},
    ),
    "NeMo manifest": (
        ["wavs/1.wav", "wavs/2.wav"],
        {"train_manifest.json": NEMO, "dev.jsonl": NEMO.replace("1.wav", "2.wav")},
        {"wavs/1.wav": ("yes", "", "train"), "wavs/2.wav": ("yes", "", "validation")},
    ),
    "AudioFolder of Hugging Face": (
        ["train/1.wav", "train/2.wav", "test/1.wav"],
        {
            "train/metadata.csv": "file_name;label;speaker_id\n1.wav;yes;s1\n.\\2.wav;no;s2\n",
            "test/metadata.jsonl": '{"file_name": "1.wav", "label": "yes", "age": 7}\n',
        },
        {
            "train/1.wav": ("yes", "s1", "train"),
            "train/2.wav": ("no", "s2", "train"),
            "test/1.wav": ("yes", "", "test"),
        },
    ),
    "Kaldi": (
        ["wav/r1.wav", "wav/r2.wav"],
        {
            "data/train/wav.scp": "r1 /corpus/wav/r1.wav\n",
            "data/train/text": "u1 YES\n",
            "data/train/utt2spk": "u1 anna\n",
            "data/train/segments": "u1 r1 0.25 0.75\n",
            "data/test/wav.scp": "r2 wav/r2.wav\n",
            "data/test/text": "r2 no\n",
        },
        {"wav/r1.wav": ("yes", "anna", "train"), "wav/r2.wav": ("no", "", "test")},
    ),
}


def said(table: ClipTable) -> Said:
    return {clip.name: (clip.word, clip.speaker, clip.split) for clip in table.clips}


def test_every_layout_can_be_named() -> None:
    assert set(NAMES) == {"auto", *(layout.name for layout in LAYOUTS)}
    titles = {layout.title for layout in LAYOUTS if layout.name != "speaker-folders"}  # which is not found by itself
    assert titles - {"Speech Commands", "Parquet with embedded audio"} == set(CASES)


@pytest.mark.parametrize("title", CASES)
def test_a_layout_is_found_by_itself_named_and_read(title: str) -> None:
    names, texts, expected = CASES[title]
    scan, lines = scan_of(*names, texts=texts), list[str]()
    with reporting(lines.append):
        table = table_of(scan)
    words = len({word for word, _, _ in said(table).values()})
    assert lines == [f"/data: read as {title}, {counted(words, 'label')}, {len(table.clips)} clips"]
    for name, (word, speaker, split) in expected.items():
        assert said(table)[name][:2] == (word, speaker)
        assert said(table)[name][2] == split or not split
    name = next(layout.name for layout in LAYOUTS if layout.title == title)
    assert table_of(scan, layout=name) == table


def test_segments_and_offsets_are_stretches_of_a_recording_and_whole_ones_are_not() -> None:
    names, texts, _ = CASES["Kaldi"]
    clips = {clip.name: clip for clip in table_of(scan_of(*names, texts=texts)).clips}
    assert (clips["wav/r1.wav"].start, clips["wav/r1.wav"].seconds) == (0.25, 0.5)
    assert (clips["wav/r2.wav"].start, clips["wav/r2.wav"].seconds) == (None, 1.0)
    manifest = '{"audio_filepath": "1.wav", "offset": 0.5, "duration": 0.25, "label": "yes"}\n'
    manifest += '{"audio_filepath": "1.wav", "offset": 0, "duration": 0.99, "label": "no"}\n'
    clips_of_one = table_of(scan_of("1.wav", texts={"all.json": manifest})).clips
    assert [(clip.word, clip.start, clip.seconds) for clip in clips_of_one] == [("yes", 0.5, 0.25), ("no", None, 1.0)]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (
            ["train/1.wav", "train/2.wav", "test/3.wav"],
            "right in test and train (such as test/3.wav), which names a split",
        ),
        (["yes/1.wav", "no/2.wav", "test/3.wav"], "right in test (such as test/3.wav), which names a split"),
        (["clips/1.wav", "clips/2.wav"], "right in clips (such as clips/1.wav), which names a folder of recordings"),
        (["audio/a.b.wav", "audio/c.wav"], "right in audio"),
    ],
)
def test_folders_that_are_no_labels_never_become_labels_in_silence(names: list[str], shown: str) -> None:
    with pytest.raises(WordflockError, match=f"^/data has recordings {re.escape(shown)}.*--layout folders\\.$"):
        table_of(scan_of(*names))
    assert len(table_of(scan_of(*names), layout="folders").clips) == len(names)


def test_two_layouts_at_once_are_an_error_that_says_which_option_settles_it() -> None:
    names, texts, expected = CASES["Kaldi"]
    both = scan_of(*names, texts={**texts, "train.json": NEMO.replace("wavs/1", "wav/r1")})
    with pytest.raises(
        WordflockError, match=r"can be read as Kaldi and NeMo manifest; say which with --layout kaldi or --layout nemo"
    ):
        table_of(both)
    assert said(table_of(both, layout="kaldi")) == expected


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"m.json": NEMO + NEMO}, r"m\.json has two rows for the file wavs/1\.wav; keep one"),
        ({"m.json": NEMO.replace("1.0", '"long"')}, r"m\.json has 'long' in the column duration; give seconds"),
        ({"m.json": NEMO.replace('"duration": 1.0', '"split": "mine"')}, r"m\.json has the split 'mine'; call it"),
        (
            {"wav.scp": "r1 sox x.wav -t wav - |\n", "text": "r1 yes\n"},
            r"wav\.scp has a command for r1; Wordflock runs",
        ),
        (
            {"m.json": NEMO.replace("/home/anna/wavs/1.wav", "2.wav")},
            r"m\.json names 2\.wav, which could be a/2\.wav or",
        ),
        ({"m.json": NEMO.replace('"yes"', '"a\\u001bb"')}, r"^The label 'a\\x1bb' in /data has a control character"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(texts: dict[str, str], complaint: str) -> None:
    with pytest.raises(WordflockError, match=complaint):
        table_of(scan_of("wavs/1.wav", "a/2.wav", "b/2.wav", texts=texts))


def test_a_file_that_is_named_and_missing_is_warned_of_by_its_name() -> None:
    rows = NEMO + NEMO.replace("1.wav", "gone.wav") + NEMO.replace("1.wav", "off.wav")
    with pytest.warns(
        WordflockWarning, match=r"name files that are not there: /home/anna/wavs/gone\.wav and 1 more\.$"
    ):
        table_of(scan_of("wavs/1.wav", texts={"m.json": rows}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("path", ["für/1.wav", "für\\1.wav", "C:\\words\\für\\1.wav", "/home/anna/words/für/1.flac"])
def test_tables_as_any_program_writes_them_say_the_same(
    path: str, delimiter: str, encoding: str, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    cells = [["File", "Speaker", "SET"], [unicodedata.normalize("NFD", path), "Anna", "Test_Set"]]
    table.write_bytes("\r\n".join(delimiter.join(row) for row in cells).encode(encoding))
    read = said(table_of(scan_of("für/1.wav", "no/2.wav"), "", str(table)))
    assert read["für/1.wav"] == ("für", "Anna", "test")


@pytest.mark.filterwarnings("ignore:Labels of")
@given(st.lists(st.sampled_from(["yes", "no", "für"]), min_size=1, max_size=12), st.data())
def test_any_spelling_of_a_label_is_the_label(words: list[str], data: st.DataObject) -> None:
    spell = st.sampled_from([str, str.upper, str.title, lambda word: unicodedata.normalize("NFD", word), " {} ".format])
    rows = [{"audio_filepath": f"{n}.wav", "label": data.draw(spell)(word)} for n, word in enumerate(words)]
    names = [str(row["audio_filepath"]) for row in rows]
    table = table_of(scan_of(*names, texts={"m.jsonl": "\n".join(map(json.dumps, rows))}))
    found = {clip.name: clip.word for clip in table.clips}
    assert [found[name].casefold() for name in names] == words
    assert len(set(found.values())) == len(set(words))


def test_labels_that_differ_in_case_or_form_are_merged_with_a_warning() -> None:
    names = ["Yes/1.wav", "yes/2.wav", "yes/3.wav", "ＮＯ/4.wav", "no/5.wav"]
    with pytest.warns(
        WordflockWarning, match="of /data that differ only in case or form are read as one: Yes as yes, ＮＯ"
    ):
        assert {clip.word for clip in table_of(scan_of(*names)).clips} == {"yes", "no"}


@pytest.mark.parametrize(
    ("label", "shown", "problem"),
    [
        ("a\nb", r"a\\nb", "a control character"),
        ("\x1b[31mred", r"\\x1b\[31mred", "a control character"),
        ("f\udcfcr", r"f\\udcfcr", "bytes that are not UTF-8"),
        ("a\u202eb", r"a\\u202eb", "an invisible character"),
    ],
)
def test_labels_that_cannot_be_printed_are_refused_in_print(label: str, shown: str, problem: str) -> None:
    with pytest.raises(WordflockError, match=f"^The label '{shown}' in /data has {problem} in it; rename it\\.$"):
        table_of(scan_of(f"{label}/1.wav", "yes/2.wav"))
    assert "می\u200cخواهم" in {clip.word for clip in table_of(scan_of("می\u200cخواهم/1.wav", "yes/2.wav")).clips}


def test_names_of_files_are_printed_safely() -> None:
    with pytest.warns(WordflockWarning, match=r"left out, of 2 in /data: \\x1b\[2J\\n\.wav \(stands in no folder"):
        table_of(scan_of("\x1b[2J\n.wav", "yes/1.wav"))


def write_parquet(path: Path, rate: int = 16_000) -> list[np.ndarray]:
    """Five recordings as Hugging Face's datasets keeps them; returns their samples."""
    sounds = [np.random.default_rng(n).uniform(-0.5, 0.5, rate // 4).astype(np.float32) for n in range(5)]
    files = []
    for samples in sounds:
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
        files.append(file.getvalue())
    table = pyarrow.table(
        {
            "audio": [{"bytes": data, "path": f"clip{n}.wav"} for n, data in enumerate(files)],
            "label": [0, 1, 0, 1, 0],
            "speaker_id": ["s1", "s1", "s2", "s2", "s3"],
        }
    )
    features = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return sounds


@pytest.mark.parametrize("lone", [True, False])
def test_parquet_with_embedded_audio_is_read_in_place(lone: bool, tmp_path: Path) -> None:
    sounds = write_parquet(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet")
    source = tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet" if lone else tmp_path / "hub"
    for _ in range(2):  # listed, then from the database
        table = load_clips(source, cache=tmp_path / "cache")
        assert [clip.word for clip in table.clips] == ["no", "yes", "no", "yes", "no"]
        assert [clip.speaker for clip in table.clips] == ["s1", "s1", "s2", "s2", "s3"]
        assert {clip.split for clip in table.clips} == {"validation"}
    backwards = table.clips[::-1]
    for samples, expected in zip(read_samples(backwards), sounds[::-1], strict=True):
        assert np.array_equal(samples, expected)


def test_several_sources_are_one_data_set(tmp_path: Path, write_audio: WriteAudio) -> None:
    for name in ("a/yes/anna_nohash_0.wav", "a/no/anna_nohash_1.wav", "b/Yes/bob_nohash_2.wav"):
        write_audio(tmp_path / name)
    (tmp_path / "a" / "testing_list.txt").write_text("yes/anna_nohash_0.wav\nno/anna_nohash_1.wav\n")
    write_audio(tmp_path / "b" / "no" / "anna_nohash_1.wav")  # the same recording, for noise is made from the name
    write_audio(tmp_path / "b" / "up" / "anna_nohash_0.wav")  # the same as a word of the other source
    write_audio(tmp_path / "b" / "up" / "anna_nohash_7.wav")
    lines: list[str] = []
    with (
        reporting(lines.append),
        pytest.warns(WordflockWarning, match=r"1 recording has different labels .* is up in"),
    ):
        table = load_clips([tmp_path / "a", tmp_path / "b"], cache=tmp_path / "cache")
    assert table.source == f"{tmp_path / 'a'} + {tmp_path / 'b'}"
    assert [(clip.word, clip.name) for clip in table.clips if clip.speaker == "anna"] == [
        ("no", "no/anna_nohash_1.wav"),
        ("yes", "yes/anna_nohash_0.wav"),
        ("up", "up/anna_nohash_7.wav"),
    ]
    assert {clip.split for clip in table.clips if clip.speaker == "anna"} == {"test"}
    assert {clip.word for clip in table.clips} == {"yes", "no", "up"}
    assert any("2 clips are in several sources" in line for line in lines)


def test_speakers_above_labels_are_named_and_read_where_the_layout_is_said() -> None:
    scan = scan_of("anna/yes/1.wav", "anna/no/1.wav", "ben/yes/1.wav", "ben/no/1.wav", "_background_noise_/x.wav")
    with pytest.warns(
        WordflockWarning, match=r"\(no, yes\) in each of its folders \(anna, ben\).*--layout speaker-folders"
    ):
        assert {clip.word for clip in table_of(scan).clips} == {"anna", "ben"}
    table = table_of(scan, layout="speaker-folders")
    assert {(clip.word, clip.speaker) for clip in table.clips} == {
        (word, speaker) for word in ("yes", "no") for speaker in ("anna", "ben")
    }
    assert len(table.background) == 1


def test_a_table_that_says_the_words_settles_what_folders_leave_open(tmp_path: Path) -> None:
    scan = scan_of("train/1.wav", "train/2.wav", "test/3.wav")
    (tmp_path / "t.csv").write_text("LINK,WORD,SET\ntrain/1.wav,yes,TRAIN\ntrain/2.wav,no,TRAIN\ntest/3.wav,yes,TEST\n")
    table = table_of(scan, table=str(tmp_path / "t.csv"))
    assert {(clip.word, clip.split) for clip in table.clips} == {("yes", "train"), ("no", "train"), ("yes", "test")}
    (tmp_path / "t.csv").write_text("file,split\ntrain/1.wav,train\n")
    with pytest.raises(WordflockError, match="which names a split"):
        table_of(scan, table=str(tmp_path / "t.csv"))
