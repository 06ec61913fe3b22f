from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock.audio.reading import read_clip
from wordflock.data.clips import Clip, ClipTable
from wordflock.data.loading import load_clips, read_samples
from wordflock.data.speech_commands import which_split
from wordflock.errors import WordflockWarning

WriteAudio = Callable[..., Path]
Pack = Callable[..., Path]


def published_split(file_name: str) -> str:
    """The rule in the words of arXiv 1804.03209, section 5.3: a SHA-1 of the speaker, 10% validation, 10% test."""
    speaker = file_name.split("_nohash_")[0]
    share = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27 / (2**27 - 1)
    return "validation" if share < 0.1 else "test" if share < 0.2 else "train"


def without_place(clip: Clip) -> Clip:
    return replace(clip, path="", offset=0)


def splits(table: ClipTable) -> dict[str, str]:
    return {clip.name: clip.split for clip in table.clips}


@pytest.fixture(scope="module")
def mini(speech_commands_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipTable:
    return load_clips(speech_commands_mini, cache=tmp_path_factory.mktemp("cache"))


def test_the_real_subset_has_the_clips_and_speakers_that_its_readme_says(mini: ClipTable) -> None:
    assert Counter(clip.split for clip in mini.clips) == {"train": 8757, "validation": 1044, "test": 1009}
    assert len({clip.speaker for clip in mini.of_split("train")}) == 627
    assert len({clip.word for clip in mini.clips}) == 35
    assert mini.protocol == "speech_commands" and not mini.faults
    assert len(mini.background) == 6 and all(clip.seconds > 50 for clip in mini.background)
    assert all(0.1 <= clip.seconds <= 1.0 for clip in mini.clips)
    assert 0.05 < np.mean([clip.seconds < 1.0 for clip in mini.clips]) < 0.15


def test_no_real_speaker_is_in_two_splits(mini: ClipTable) -> None:
    heard = defaultdict(set)
    for clip in mini.clips:
        heard[clip.speaker].add(clip.split)
    assert all(len(where) == 1 for where in heard.values())


def test_the_hash_puts_real_speakers_where_the_official_lists_do(mini: ClipTable) -> None:
    # The subset's two lists share out the speakers that the official data set has in validation.
    for clip in mini.clips:
        assert which_split(clip.speaker) == ("train" if clip.split == "train" else "validation")


def test_real_samples_are_those_of_the_recordings(mini: ClipTable, speech_commands_mini: Path) -> None:
    chosen = sorted(mini.clips[::1500], key=lambda clip: clip.offset)
    for clip, samples in zip(chosen, read_samples(chosen), strict=True):
        with speech_commands_mini.open("rb") as archive:
            archive.seek(clip.offset)
            assert np.array_equal(samples, read_clip(archive.read(clip.size)))
        assert len(samples) == round(clip.seconds * 16_000)


@given(st.text(alphabet="0123456789abcdef", min_size=8, max_size=8))
def test_the_hash_rule_is_the_published_one(speaker: str) -> None:
    assert (
        which_split(speaker) == published_split(f"{speaker}_nohash_0.wav") == published_split(f"{speaker}_nohash_7.wav")
    )


def test_the_hash_rule_gives_a_tenth_each_to_validation_and_test() -> None:
    count = Counter(which_split(f"speaker {number}") for number in range(5000))
    assert 400 < count["validation"] < 600 and 400 < count["test"] < 600


def test_lists_win_and_may_name_another_extension(small_speech_commands: Path, tmp_path: Path) -> None:
    for list_ in small_speech_commands.glob("*_list.txt"):
        list_.write_text(list_.read_text().replace(".wav", ".flac"))
    table = load_clips(small_speech_commands, cache=tmp_path)
    listed = {
        split: {line[: -len(".flac")] for line in (small_speech_commands / name).read_text().split()}
        for split, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt"))
    }
    for split, names in listed.items():
        assert names and {clip.name[: -len(".wav")] for clip in table.of_split(split)} == names
    assert len(table.of_split("train")) == len(table.clips) - len(listed["validation"]) - len(listed["test"])


def test_without_lists_the_hash_decides(small_speech_commands: Path, tmp_path: Path) -> None:
    for list_ in small_speech_commands.glob("*_list.txt"):
        list_.unlink()
    table = load_clips(small_speech_commands, cache=tmp_path)
    assert set(splits(table).values()) == {"train", "validation", "test"}
    assert all(split == published_split(Path(name).name) for name, split in splits(table).items())


@pytest.mark.parametrize("kept", ["validation_list.txt", "testing_list.txt"])
def test_with_one_list_the_hash_decides_what_it_does_not_name(
    kept: str, small_speech_commands: Path, tmp_path: Path
) -> None:
    for list_ in small_speech_commands.glob("*_list.txt"):
        if list_.name != kept:
            list_.unlink()
    named = set((small_speech_commands / kept).read_text().split())
    split_of_list = {"validation_list.txt": "validation", "testing_list.txt": "test"}[kept]
    for name, split in splits(load_clips(small_speech_commands, cache=tmp_path)).items():
        assert split == (split_of_list if name in named else published_split(Path(name).name))


def test_folder_and_archives_give_the_same_table(small_speech_commands: Path, tmp_path: Path, pack: Pack) -> None:
    of_folder = load_clips(small_speech_commands, cache=tmp_path / "cache")
    assert of_folder.background and all(clip.speaker for clip in of_folder.clips)
    for name, around in (("a.tar", "."), ("b.tar.gz", "."), ("c.tar.gz", "speech_commands_v0.02")):
        archive = pack(small_speech_commands, tmp_path / name, around)
        table = load_clips(archive, cache=tmp_path / "cache")
        assert table.source == str(archive) and table.protocol == of_folder.protocol
        for clips, expected in ((table.clips, of_folder.clips), (table.background, of_folder.background)):
            assert [without_place(clip) for clip in clips] == [without_place(clip) for clip in expected]
        in_order = sorted(table.clips, key=lambda clip: clip.offset)
        by_name = {clip.name: clip for clip in of_folder.clips}
        for samples, expected_samples in zip(
            read_samples(in_order), read_samples(by_name[clip.name] for clip in in_order), strict=True
        ):
            assert np.array_equal(samples, expected_samples)


@pytest.mark.parametrize("suffix", ["", ".tar.gz"])
def test_the_official_test_archive_is_all_test(suffix: str, small_test_set: Path, tmp_path: Path, pack: Pack) -> None:
    source = pack(small_test_set, tmp_path / f"test{suffix}") if suffix else small_test_set
    table = load_clips(source, cache=tmp_path / "cache")
    assert {clip.split for clip in table.clips} == {"test"}
    assert Counter(clip.word for clip in table.clips) == {"yes": 4, "_unknown_": 4, "_silence_": 4}
    speakers = {word: {clip.speaker for clip in table.clips if clip.word == word} for word in ("yes", "_unknown_")}
    assert speakers["_unknown_"] == speakers["yes"] and "0c540988" in speakers["yes"]
    assert {clip.speaker for clip in table.clips if clip.word == "_silence_"} == {""}


def test_a_training_set_with_unknown_words_is_not_taken_for_the_test(
    small_speech_commands: Path, tmp_path: Path, write_audio: WriteAudio
) -> None:
    write_audio(small_speech_commands / "_unknown_" / "0c540988_nohash_0.wav")
    background, lists = small_speech_commands / "_background_noise_", small_speech_commands.glob("*_list.txt")
    tables = [load_clips(small_speech_commands, cache=tmp_path)]
    background.rename(tmp_path / "elsewhere")  # the lists alone are enough to tell
    tables.append(load_clips(small_speech_commands, cache=tmp_path))
    (tmp_path / "elsewhere").rename(background)  # and so is the background alone
    for list_ in lists:
        list_.unlink()
    tables.append(load_clips(small_speech_commands, cache=tmp_path))
    for table in tables:
        assert len(table.of_split("train")) > len(table.of_split("test"))
        assert [clip.speaker for clip in table.clips if clip.word == "_unknown_"] == ["0c540988"]


def test_a_speaker_is_all_that_stands_before_nohash(tmp_path: Path, write_audio: WriteAudio) -> None:
    for name in ("bobby_smith_nohash_0", "bobby_smith_nohash_1"):
        write_audio(tmp_path / "words" / "yes" / f"{name}.wav")
    clips = load_clips(tmp_path / "words", cache=tmp_path).clips
    assert {(clip.speaker, clip.split) for clip in clips} == {
        ("bobby_smith", published_split("bobby_smith_nohash_0.wav"))
    }


def test_unknown_speakers_among_the_known_are_split_by_content_with_a_warning(
    small_speech_commands: Path, tmp_path: Path, write_audio: WriteAudio
) -> None:
    write_audio(small_speech_commands / "yes" / "my own.wav")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            splits(load_clips(small_speech_commands, cache=tmp_path))["yes/my own.wav"] == "train"
        )  # the lists say so
    (small_speech_commands / "testing_list.txt").unlink()
    with pytest.warns(WordflockWarning, match="does not say who speaks in 1 clip"):
        table = load_clips(small_speech_commands, cache=tmp_path)
    own = next(clip for clip in table.clips if clip.name == "yes/my own.wav")
    assert own.speaker == "" and own.split == which_split(own.content)


def test_speech_commands_sorted_into_split_folders_keep_their_splits_and_speakers(
    tmp_path: Path, write_audio: WriteAudio
) -> None:
    for split in ("train", "val", "testing"):
        for speaker in ("0c540988", "0a9f9af7"):
            write_audio(tmp_path / "sorted" / split / "yes" / f"{speaker}_nohash_{len(split)}.wav")
    table = load_clips(tmp_path / "sorted", cache=tmp_path)
    assert table.protocol == "speech_commands"
    assert Counter(clip.split for clip in table.clips) == {"train": 2, "validation": 2, "test": 2}
    assert {(clip.word, clip.speaker) for clip in table.clips} == {("yes", "0c540988"), ("yes", "0a9f9af7")}


def test_crops_are_stretches_of_the_background_times_their_gain(
    small_speech_commands: Path, tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(small_speech_commands, tmp_path / "words.tar.gz")
    recording, other = load_clips(archive, cache=tmp_path / "cache").background
    crops = [
        replace(recording, word="_silence_", seconds=0.25, start=start / 16_000, gain=gain)
        for start, gain in ((0, 1.0), (4001, 0.1), (20_000, 0.5), (3, 0.0))
    ]
    whole, *_ = read_samples([recording])
    reads = 0

    def counting(data: bytes, name: str, **options: bool) -> np.ndarray:
        nonlocal reads
        reads += 1
        return read_clip(data, name, **options)

    monkeypatch.setattr("wordflock.audio.reading.read_clip", counting)
    first, second, third, digital_silence, last = read_samples(
        [*crops[:3], replace(crops[3], seconds=0.2), replace(other, seconds=0.1, start=1.0)]
    )
    assert reads == 2
    assert np.array_equal(first, whole[:4000])
    np.testing.assert_allclose(second, whole[4001:8001] * 0.1, rtol=1e-6)
    assert np.array_equal(third, whole[20_000:24_000] / 2)
    assert digital_silence.shape == (3200,) and not digital_silence.any()
    assert last.shape == (1600,) and all(samples.dtype == np.float32 for samples in (first, second, last))
    assert len({clip.key for clip in crops}) == len(crops)


@pytest.mark.parametrize(
    ("own", "published", "protocol"), [(9, 1, "folder"), (5, 5, "folder"), (1, 9, "speech_commands")]
)
def test_a_few_names_of_eight_digits_do_not_make_a_folder_speech_commands(
    own: int, published: int, protocol: str, write_audio: WriteAudio, tmp_path: Path
) -> None:
    for number in range(own + published):
        speaker = f"{number:08x}" if number < published else f"anna{number}"
        write_audio(tmp_path / "words" / ("yes", "no")[number % 2] / f"{speaker}_nohash_0.wav")
    write_audio(tmp_path / "words" / "_background_noise_" / "room.wav", seconds=2.0)
    table = load_clips(tmp_path / "words", cache=tmp_path / "cache")
    assert table.protocol == protocol and len(table.clips) == own + published
