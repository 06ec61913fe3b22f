"""Synthetic words: real espeak-ng, real files, real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from wordflock.data import synthetic, voices
from wordflock.data.espeak import TRACTS, Espeak
from wordflock.data.synthetic import WORDS, synthesize
from wordflock.data.voices import make_voices, say
from wordflock.errors import WordflockError
from wordflock.randomness import numpy_generator

pytest.importorskip("espeakng_loader", reason="synthetic words need espeakng-loader")

SAID, OTHERS = ("yes", "stop"), ("house", "cat", "three")
TRAINING_CLIPS = 3 * (2 * 1 + 2)
EVALUATION_CLIPS = 1 * (2 * 2 + 3)  # a single voice, twice the takes
BACKGROUNDS = {"white_noise", "pink_noise", "mains_hum", "traffic", "gusts", "babble"}
BACKGROUND_SECONDS = 4


def make(folder: Path, seed: int = 0) -> None:
    synthesize(folder, words=SAID, others=OTHERS, voices=3, takes=1, seed=seed)


@pytest.fixture(autouse=True, scope="module")
def short_backgrounds() -> Iterator[None]:
    """Most of the time would go into noise; a little of it is as good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "BACKGROUND_SECONDS", BACKGROUND_SECONDS)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "made" / "small"
    make(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def clips(folder: Path) -> list[str]:
    return [name for name in contents(folder) if "_nohash_" in name]


def listed(folder: Path, name: str) -> set[str]:
    return set((folder / name).read_text(encoding="utf-8").splitlines())


def speakers(names: set[str]) -> set[str]:
    return {name.split("/")[1].split("_")[0] for name in names}


def in_another_process(folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"""
import os, pathlib, signal
from wordflock.data import synthetic
synthetic.BACKGROUND_SECONDS = {BACKGROUND_SECONDS}
{before}
synthetic.synthesize(pathlib.Path({str(folder)!r}), words={SAID}, others={OTHERS}, voices=3, takes=1)
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_layout_is_that_of_speech_commands(small: Path) -> None:
    names = set(clips(small))
    validation, testing = listed(small, "validation_list.txt"), listed(small, "testing_list.txt")
    assert {folder.name for folder in small.iterdir() if folder.is_dir()} == {*SAID, *OTHERS, "_background_noise_"}
    assert {file.stem for file in (small / "_background_noise_").iterdir()} == BACKGROUNDS
    assert len(names) == TRAINING_CLIPS + 2 * EVALUATION_CLIPS
    assert validation | testing <= names
    assert len(validation) == len(testing) == EVALUATION_CLIPS
    for name in names:
        speaker, _, number = Path(name).stem.partition("_nohash_")
        assert len(speaker) == 8 and int(speaker, 16) >= 0 and int(number) >= 0
    for file in small.rglob("*.flac"):
        about = soundfile.info(file)
        assert (about.samplerate, about.channels, about.subtype) == (16_000, 1, "PCM_16")
        assert about.duration == (BACKGROUND_SECONDS if file.parent.name == "_background_noise_" else 1.0)


def test_nothing_is_left_beside_the_data_set(small: Path) -> None:
    assert [path.name for path in small.parent.iterdir()] == ["small"]


def test_no_speaker_is_in_two_splits(small: Path) -> None:
    validation, testing = listed(small, "validation_list.txt"), listed(small, "testing_list.txt")
    groups = [speakers(set(clips(small)) - validation - testing), speakers(validation), speakers(testing)]
    assert [len(group) for group in groups] == [3, 1, 1]
    assert len(set.union(*groups)) == 5


@pytest.mark.parametrize("seed", [0, 1])
def test_no_vocal_tract_is_in_two_splits_and_no_training_voice_comes_twice(tmp_path: Path, seed: int) -> None:
    cast = make_voices(Espeak(tmp_path), "en", {"train": 100, "validation": 16, "test": 16}, seed)
    tracts = {
        split: {v.name.split("+")[1] for v in cast if v.split == split} for split in ("train", "validation", "test")
    }
    assert set.union(*tracts.values()) == set(TRACTS)
    assert sum(map(len, tracts.values())) == len(TRACTS)
    assert [sum(v.split == split for v in cast) for split in tracts] == [100, 16, 16]
    assert len({v.name for v in cast}) == len({v.speaker for v in cast}) == len(cast)


def test_the_same_recipe_gives_the_same_bytes_in_another_process(small: Path, tmp_path: Path) -> None:
    assert in_another_process(tmp_path / "again").returncode == 0
    assert contents(tmp_path / "again") == contents(small)


def test_the_same_recipe_gives_the_same_bytes_again_in_this_process_and_another_seed_others(
    small: Path, tmp_path: Path
) -> None:
    make(tmp_path / "other", seed=1)
    make(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(small)
    other, here = contents(tmp_path / "other"), contents(small)
    assert not speakers(set(clips(small))) & speakers(set(clips(tmp_path / "other")))
    for name in BACKGROUNDS:
        file = f"_background_noise_/{name}.flac"
        assert other[file] != here[file]


def test_a_word_lies_within_its_second_and_is_heard(tmp_path: Path) -> None:
    espeak = Espeak(tmp_path)
    cast = make_voices(espeak, "en", {"train": 12, "validation": 2, "test": 2}, 0)
    silence = [np.zeros(16_001)]
    for voice in cast:
        for word in WORDS:
            generator = numpy_generator(0, "test", word)
            spoken = say(espeak, voice, word, generator)
            assert 0.1 < len(spoken) / 16_000 <= voices.MAX_WORD
            clip = synthetic._take(spoken, voice, silence, generator)
            assert len(clip) == 16_000 and np.abs(clip).max() < 1
            # All of the word is there: its direct sound begins after the clip does, and ends before the clip does.
            heard = np.flatnonzero(np.abs(clip) > 1e-3 * np.abs(clip).max())
            assert 0 < heard[0] <= 16_000 - len(spoken)
            energy = np.square(clip)
            assert energy[heard[0] : heard[0] + len(spoken)].sum() > 0.7 * energy.sum()


def test_clips_are_neither_silent_nor_clipped(small: Path) -> None:
    for name in clips(small):
        samples, _ = soundfile.read(small / name)
        assert 0.03 < np.abs(samples).max() < 0.8


def shape(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The spectral envelope of a sound over time, shape (8 × 20,), of unit length."""
    frames = np.array_split(samples, 8)
    spectra = [np.log(np.abs(np.fft.rfft(frame, 2048)) + 1e-3) for frame in frames]
    bands = np.array([[band.mean() for band in np.array_split(spectrum, 20)] for spectrum in spectra]).ravel()
    bands = bands - bands.mean()
    return np.asarray(bands / np.linalg.norm(bands))


def test_a_word_sounds_more_like_itself_than_like_another(tmp_path: Path) -> None:
    espeak = Espeak(tmp_path)
    voice = make_voices(espeak, "en", {"train": 1, "validation": 1, "test": 1}, 0)[0]
    words = WORDS[:10]
    first, second = (
        np.array([shape(say(espeak, voice, word, numpy_generator(take, word))) for word in words]) for take in (1, 2)
    )
    nearest = (first @ second.T).argmax(axis=1)
    assert (nearest == np.arange(len(words))).sum() >= 7  # one would be chance


@pytest.mark.parametrize("voice", ["en-us+whisper", "en-us+Reed"])  # espeak-ng's own noise, and the C library's
def test_the_breath_of_a_voice_depends_on_its_seed_alone(tmp_path: Path, voice: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Espeak(tmp_path / "one"), Espeak(tmp_path / "two")
    yes = (voice, "yes", 150, 50, 50)
    np.testing.assert_array_equal(one.say(*yes, seed=1), two.say(*yes, seed=1))
    assert not np.array_equal(one.say(*yes, seed=2), two.say(*yes, seed=3))


def test_voices_are_found_however_long_the_path_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import espeakng_loader

    (tmp_path / ("long" * 50)).symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path / ("long" * 50)))
    (tmp_path / "home").mkdir()
    samples = Espeak(tmp_path / "home").say("en-us+f3", "yes", 150, 50, 50, seed=1)
    assert np.abs(samples).max() > 0.1


def test_another_language_has_voices_of_its_own(tmp_path: Path) -> None:
    espeak = Espeak(tmp_path)
    assert espeak.dialects("fr") == ["fr", "fr-be", "fr-ch"]
    assert espeak.dialects("en-US") == ["en-us", "en-us-nyc"]
    with pytest.raises(WordflockError, match="does not speak the language 'tlh': choose from af, "):
        espeak.dialects("tlh")


def test_a_complete_data_set_is_kept(small: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in small.rglob("*")}
    make(small)
    assert {file: file.stat().st_mtime_ns for file in small.rglob("*")} == before


def test_a_folder_that_holds_something_else_is_refused_and_untouched(small: Path, tmp_path: Path) -> None:
    before = contents(small)
    with pytest.raises(WordflockError, match="small exists and is not the data set asked for"):
        make(small, seed=1)
    assert contents(small) == before
    (tmp_path / "mine.txt").write_text("mine")
    for existing in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(WordflockError, match="name another folder"):
            make(existing)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_a_killed_process_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    kill = """
write, files = synthetic.write, []
def write_some(file, samples):
    files.append(file)
    if len(files) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, samples)
synthetic.write = write_some
"""
    assert in_another_process(tmp_path / "killed", before=kill).returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.flac"))) == 11
    assert not (tmp_path / "killed").exists()


def test_a_failure_leaves_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, samples: NDArray[np.float64]) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(synthetic, "write", full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path / "failed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("", "has no sound"),
        ("?!", "has no sound"),
        ("a/b", "cannot name a folder"),
        ("..a", "cannot name a folder"),
        ("_silence_", "cannot name a folder"),
        (" yes", "cannot name a folder"),
        ("yes\nno", "cannot name a folder"),
        ("the quick brown fox jumps over the lazy dog", "a clip is 1 s: give a shorter one"),
    ],
)
def test_a_word_that_cannot_be_a_clip_is_refused_before_anything_is_written(
    tmp_path: Path, word: str, reason: str
) -> None:
    for words, others in (((word,), ()), (("yes",), (word,))):
        with pytest.raises(WordflockError, match=reason):
            synthesize(tmp_path / "words", words=words, others=others, voices=1, takes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"words": ()}, {"voices": 0}, {"takes": 0}, {"seed": -1}])
def test_a_number_out_of_range_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(WordflockError, match=f"cannot have {name} = "):
        synthesize(tmp_path / "wrong", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WordflockError, match="words cannot be made"):
        make(tmp_path / "file" / "words")


def test_without_espeak_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(WordflockError, match=r"install Wordflock with its extra \[train\]"):
        make(tmp_path / "words")


def test_a_short_list_of_other_words_repeats_with_another_take() -> None:
    recipe = synthetic._Recipe(("yes",), ("cat", "dog"), 1, 4, "en", 0)
    voice = voices._voice(0, "00000000", "train", "en+f1", 0)
    script = [(line.name, line.take) for line in synthetic._script(voice, recipe, {})]
    assert len(script) == len(set(script)) == 4 + 6
    assert script[4:] == [("cat", 0), ("dog", 0), ("cat", 1), ("dog", 1), ("cat", 2), ("dog", 2)]
