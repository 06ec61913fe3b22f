"""Cutting: clips are what the recording has there, whole or absent, and never mixed with other files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE, read_clip
from wordflock.data import cut_folder
from wordflock.data.cutting import MARGIN, crops, cut
from wordflock.data.loading import load_clips
from wordflock.errors import WordflockError, WordflockWarning

WORDS = ((1.0, 1.4), (2.5, 3.1), (4.6, 4.9))


def recording(path: Path, rate: int = SAMPLE_RATE, channels: int = 1, seed: int = 0) -> Path:
    """Three bursts of tones in 6 s of soft noise."""
    time = np.arange(6 * rate) / rate
    tone = np.sin(2 * np.pi * (400 + 50 * seed) * time) + np.sin(2 * np.pi * 1400 * time)
    envelope = sum(((start <= time) & (time < end)).astype(float) for start, end in WORDS)
    sound = 0.2 * tone * envelope + 1e-3 * np.random.default_rng(seed).standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([sound] * channels, axis=1), rate, subtype="PCM_16")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.wav")}


def test_words_are_cut_with_their_margin_and_are_read_as_data(tmp_path: Path) -> None:
    original = recording(tmp_path / "long" / "yes" / "anna.flac", 44_100, 2)
    recording(tmp_path / "long" / "no" / "anna.wav", seed=1)
    before = original.read_bytes()
    written = cut([tmp_path / "long"], tmp_path / "clips")
    assert {label: those.clips for label, those in written.items()} == {"no": 3, "yes": 3}
    assert sorted(content(tmp_path / "clips"))[3:] == [f"yes/anna_00{n}.wav" for n in (1, 2, 3)]
    for number, (start, end) in enumerate(WORDS, 1):
        clip, rate = soundfile.read(tmp_path / "clips" / "yes" / f"anna_00{number}.wav")
        assert rate == SAMPLE_RATE and len(clip) / rate == pytest.approx(end - start + 2 * MARGIN, abs=0.08)
    assert original.read_bytes() == before
    table = load_clips(tmp_path / "clips", cache=tmp_path / "cache", speaker_pattern="^(.+)_")
    assert sorted({(clip.word, clip.speaker) for clip in table.clips}) == [("no", "anna"), ("yes", "anna")]


LABELS = "1.0\t1.4\tyes\n2.5\t3.1\tno\n4.6\t4.9\tyes\n"


def test_intervals_are_cut_to_the_sample(tmp_path: Path) -> None:
    source = recording(tmp_path / "meeting.wav")
    (tmp_path / "labels.txt").write_text(LABELS)
    cut([source], tmp_path / "clips", labels=tmp_path / "labels.txt")
    whole = read_clip(source)
    for name, (start, end) in zip(("yes/meeting_001", "no/meeting_002", "yes/meeting_003"), WORDS, strict=True):
        clip = read_clip(tmp_path / "clips" / f"{name}.wav")
        first, last = (round(time * SAMPLE_RATE) for time in (start - MARGIN, end + MARGIN))
        assert np.array_equal(clip, whole[first:last])


def test_each_recording_finds_its_labels(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        recording(tmp_path / "audio" / f"{name}.wav", seed=seed)
    (tmp_path / "labels" / "monday").mkdir(parents=True)
    (tmp_path / "labels" / "monday" / "a.txt").write_text("1\t1.4\tyes\n")
    with pytest.warns(WordflockWarning, match="1 recording has no labels in"):
        cut([tmp_path / "audio"], tmp_path / "one", labels=tmp_path / "labels")
    assert list(content(tmp_path / "one")) == ["yes/a_001.wav"]
    table = tmp_path / "all.csv"
    table.write_text("file,start,end,label,speaker\nC:\\x\\b.wav,2.5,3.1,no,ben\na.wav,1,1.4,yes,\n")
    cut([tmp_path / "audio"], tmp_path / "two", labels=table)
    assert sorted(content(tmp_path / "two")) == ["no/ben_nohash_b_001.wav", "yes/a_001.wav"]
    (tmp_path / "labels.txt").write_text(LABELS)
    for labels, words in (
        (tmp_path / "labels.txt", "does not say which of the 2 recordings"),
        (tmp_path / "one", "has no labels for a.wav; name them a.txt"),
    ):
        with pytest.raises(WordflockError, match=words):
            cut([tmp_path / "audio"], tmp_path / "three", labels=labels)


def test_an_archive_gives_what_its_folder_gives(tmp_path: Path, pack: Any) -> None:
    for seed, word in enumerate(("hey savant", "no")):
        recording(tmp_path / "data" / "wrapped" / word / "session 1" / "anna.wav", seed=seed)
    cut([tmp_path / "data"], tmp_path / "one")
    cut([pack(tmp_path / "data", tmp_path / "data.tar.gz")], tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert "hey savant/session 1-anna_001.wav" in content(tmp_path / "one")


def test_a_killed_cut_goes_on_and_one_of_other_files_or_options_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate("abc"):
        recording(tmp_path / "yes" / f"{name}.wav", seed=seed)
    cut([tmp_path / "yes"], tmp_path / "whole")
    for killed_at in range(1, 9, 2):
        out, done = tmp_path / f"killed {killed_at}", 0
        write = cut_folder.write_atomically

        def killed(path: Path, data: bytes, at: int = killed_at, write: Any = write) -> None:
            nonlocal done
            done += 1
            if done == at:
                path.with_name(f".{path.name}.{os.getpid()}").write_bytes(data[:100])
                raise KeyboardInterrupt
            write(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(cut_folder, "write_atomically", killed)
            with pytest.raises(KeyboardInterrupt):
                cut([tmp_path / "yes"], out)
        with (out / ".cut.jsonl").open("a") as file:
            file.write('{"recording": "ye')  # half a line
        with pytest.raises(WordflockError, match="cut otherwise"):
            cut([tmp_path / "yes"], out, margin=0.2)
        written = cut([tmp_path / "yes"], out)
        assert written["yes"].clips == 9 and content(out) == content(tmp_path / "whole")
        assert not [file for file in out.rglob(".*") if file.name not in (".cut.jsonl", ".lock")]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(WordflockError, match=r"has other files in it \(notes.txt\)"):
        cut([tmp_path / "yes"], tmp_path / "mine")
    recording(tmp_path / "yes" / "a.wav", seed=9)
    with pytest.raises(WordflockError, match="clips of yes/a that were cut otherwise"):
        cut([tmp_path / "yes"], tmp_path / "whole")


def test_more_recordings_are_cut_into_the_same_folder_but_never_over_a_file(tmp_path: Path) -> None:
    cut([recording(tmp_path / "yes" / "a.wav")], tmp_path / "out", label="yes")
    cut([recording(tmp_path / "yes" / "b.wav", seed=1)], tmp_path / "out", label="yes")
    assert len(content(tmp_path / "out")) == 6
    mine = tmp_path / "out" / "yes" / "c_002.wav"
    mine.write_bytes(b"mine")
    with pytest.raises(WordflockError, match=r"c_002.wav exists already"):
        cut([recording(tmp_path / "yes" / "c.wav", seed=2)], tmp_path / "out", label="yes")
    assert mine.read_bytes() == b"mine" and not (tmp_path / "out" / "yes" / "c_001.wav").exists()


def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(tmp_path: Path, write_audio: Any) -> None:
    source = recording(tmp_path / "long.wav")
    recording(tmp_path / "recordings" / "one.wav")
    labels = tmp_path / "labels.txt"
    for said, words in (
        ("1\t1\tyes\n", "is a point; drag it"),
        ("1\t7\tyes\n", "ends after 7.000 s, and the recording after 6.000 s"),
        ("1\t2\n", "has no label"),
        ("1\t2\ta/b\n", "'a/b' cannot be the name of a file"),
        ("1\t2\t..\n", "'..' cannot be"),
    ):
        labels.write_text(said)
        with pytest.raises(WordflockError, match=words):
            cut([source], tmp_path / "out", labels=labels)
    labels.write_text("1\t2\tok\n")
    assert cut([source], tmp_path / "out", labels=labels)["ok"].clips == 1
    for sources, words in (
        ([tmp_path / "recordings" / "one.wav"], "what is spoken in one.wav"),
        ([tmp_path / "recordings"], "what is spoken in one.wav"),
        ([tmp_path / "nothing"], "does not exist"),
    ):
        with pytest.raises(WordflockError, match=words):
            cut(sources, tmp_path / "other")
    with pytest.raises(WordflockError, match="would be cut again"):
        cut([tmp_path], tmp_path / "clips", label="yes")
    same = [recording(tmp_path / "x" / "yes" / "a.wav"), recording(tmp_path / "y" / "yes" / "a.wav")]
    with pytest.raises(WordflockError, match="same names"):
        cut(same, tmp_path / "other")
    (tmp_path / "yes").mkdir()
    (tmp_path / "yes" / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(WordflockError, match=r"bad.wav is not audio"):
        cut([tmp_path / "yes"], tmp_path / "other")
    write_audio(tmp_path / "yes" / "noise.wav", seconds=3)
    recording(tmp_path / "yes" / "good.wav")
    with warnings.catch_warnings(record=True) as said_:
        warnings.simplefilter("always")
        assert cut([tmp_path / "yes"], tmp_path / "other")["yes"].clips == 3
    assert [str(warning.message).split(":")[0] for warning in said_] == [
        "1 recording cannot be read",
        "1 recording holds nothing to cut",
    ]


@given(
    st.lists(st.integers(0, 2_000), max_size=5),
    st.lists(st.tuples(st.integers(0, 2_200), st.integers(0, 600)), max_size=6),
)
def test_crops_are_those_of_the_whole(places: list[int], spans: list[tuple[int, int]]) -> None:
    sound: NDArray[np.float32] = np.arange(2_000, dtype=np.float32)
    wanted = sorted((start, start + length) for start, length in spans)
    times = [(start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in wanted]
    found = list(crops(np.split(sound, sorted(places)), times))
    assert [crop.tolist() for crop in found] == [sound[start:end].tolist() for start, end in wanted]


def test_wake_words_are_found(tmp_path: Path, speech_commands_mini: Path) -> None:
    archive = speech_commands_mini.with_name("wake_words.tar")
    if not archive.exists():
        pytest.skip(f"no wake_words.tar at {archive}")
    import tarfile

    with tarfile.open(archive) as tar:
        members = [member for member in tar if "hey savant" in member.name][:40]
        tar.extractall(tmp_path / "words", members, filter="data")
    written = cut([tmp_path / "words"], tmp_path / "clips")["hey savant"]
    assert 40 <= written.clips <= 46 and 0.8 < written.seconds / written.clips < 1.5


def test_an_error_before_the_first_clip_leaves_nothing_behind(tmp_path: Path) -> None:
    source = recording(tmp_path / "meeting.wav")
    labels = tmp_path / "labels.txt"
    labels.write_text("1.0\t1.4\tyes\n50.0\t51.0\tno\n")
    (tmp_path / "there").mkdir()
    for out in ("new", "there"):
        with pytest.raises(WordflockError, match="the recording after"):
            cut([source], tmp_path / out, labels=labels)
    assert not (tmp_path / "new").exists() and not list((tmp_path / "there").iterdir())
    labels.write_text(LABELS)
    assert cut([source], tmp_path / "new", labels=labels)["yes"].clips == 2
    labels.write_text("9.0\t9.4\tyes\n")
    with pytest.raises(WordflockError, match="cut otherwise"):
        cut([source], tmp_path / "new", labels=labels)
    assert len(content(tmp_path / "new")) == 3 and (tmp_path / "new" / ".cut.jsonl").exists()
