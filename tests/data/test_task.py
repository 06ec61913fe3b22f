from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.data.clips import SPLITS, Clip, ClipTable
from wordflock.data.task import DEFAULT_KEYWORDS, SILENCE, UNKNOWN, Task, choose_task, examples, silence_crops
from wordflock.errors import WordflockError

words = st.sampled_from(["yes", "no", "cat", "häuser", "left", "right"])
tasks = st.builds(Task, st.lists(words, unique=True).map(tuple), st.booleans(), st.booleans())
seeds = st.integers(0, 2**32)


def clip(word: str, number: int = 0, split: str = "train") -> Clip:
    name = f"{word}/{number}.wav"
    return Clip(word, f"s{number}", split, 1.0, f"/data/{name}", name, 0, 100, sha256(name.encode()).hexdigest())


def noise(name: str = "tap", seconds: float = 60.0) -> Clip:
    """A background recording."""
    content = sha256(name.encode()).hexdigest()
    return Clip("", "", "train", seconds, f"/data/{name}.wav", f"{name}.wav", 0, 100, content)


def table(
    *words: str, protocol: str = "folder", background: Sequence[Clip] = (), clips: int = 1, **more: Any
) -> ClipTable:
    made = tuple(clip(word, number, split) for word in words for split in SPLITS for number in range(clips))
    return ClipTable("/data", protocol, made, tuple(background), **more)


# Labels


@given(tasks)
def test_keywords_come_first_then_silence_then_unknown(task: Task) -> None:
    tail = [label for label, wanted in ((SILENCE, task.silence), (UNKNOWN, task.unknown)) if wanted]
    assert task.labels == [*task.keywords, *tail]


@given(tasks)
def test_labels_name_their_task_again(task: Task) -> None:
    assert Task.of_labels(task.labels) == task


@given(tasks, words)
def test_a_word_has_its_own_label_or_unknown_or_none(task: Task, word: str) -> None:
    label = task.label_of(word)
    if word in task.keywords:
        assert label is not None and task.labels[label] == word
    elif task.unknown:
        assert label is not None and task.labels[label] == UNKNOWN
    else:
        assert label is None


@given(tasks)
def test_every_label_is_that_of_its_own_name(task: Task) -> None:
    assert [task.label_of(label) for label in task.labels] == list(range(len(task.labels)))
    if not task.silence:  # silence is no unknown word
        assert task.label_of(SILENCE) is None


# The task that users mean


def test_speech_commands_has_the_usual_ten_with_silence_and_unknown() -> None:
    whole = table("zero", "cat", *sorted(DEFAULT_KEYWORDS), protocol="speech_commands", background=[noise()])
    task = choose_task(whole, [], None, None)
    assert task.labels == ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", SILENCE, UNKNOWN]
    assert choose_task(whole, [], False, False).labels == list(DEFAULT_KEYWORDS)


def test_a_part_of_speech_commands_has_those_of_the_ten_that_it_holds() -> None:
    part = table("no", "cat", "go", protocol="speech_commands", background=[noise()])
    assert choose_task(part, [], None, None).labels == ["no", "go", SILENCE, UNKNOWN]


def test_speech_commands_with_none_of_the_ten_asks_for_keywords() -> None:
    rest = table("dog", "cat", protocol="speech_commands", background=[noise()])
    with pytest.raises(WordflockError, match=r"^/data has none of the usual words; name --keywords of cat, dog\.$"):
        choose_task(rest, [], None, None)
    assert choose_task(rest, ["cat"], None, None).labels == ["cat", SILENCE, UNKNOWN]


def test_a_folder_has_all_its_labels_and_nothing_else() -> None:
    folder = table("tür", "auto", SILENCE, UNKNOWN, background=[noise()])
    assert choose_task(folder, [], None, None).labels == ["auto", "tür"]
    assert choose_task(folder, [], True, None).labels == ["auto", "tür", SILENCE]
    assert choose_task(folder, [], None, True).labels == ["auto", "tür", UNKNOWN]


@given(
    st.lists(words, unique=True, min_size=2), st.booleans(), st.booleans(), st.sampled_from(["speech_commands", "x"])
)
def test_what_is_said_is_done_in_the_order_in_which_it_is_said(
    keywords: list[str], silence: bool, unknown: bool, protocol: str
) -> None:
    whole = table("yes", "no", "cat", "häuser", "left", "right", protocol=protocol, background=[noise()])
    assert choose_task(whole, keywords, silence, unknown) == Task(tuple(keywords), silence, unknown)


@pytest.mark.parametrize(
    ("keywords", "silence", "message"),
    [
        (["yes", "maybe"], None, r"^The keyword 'maybe' has no clips in /data, which has no, yes\.$"),
        ([UNKNOWN, "yes"], None, rf"^The keyword '{UNKNOWN}' has no clips"),
        (["yes", "no", "yes"], None, r"^The keyword 'yes' stands twice in --keywords; name it once\.$"),
        (["yes"], None, r"^A task needs two labels at least, and this one has yes; name more --keywords\.$"),
        ([], True, r"^/data has no recordings without speech .*_background_noise_, or add --no-silence\.$"),
    ],
)
def test_a_task_that_cannot_be_is_refused(keywords: list[str], silence: bool | None, message: str) -> None:
    with pytest.raises(WordflockError, match=message):
        choose_task(table("yes", "no", UNKNOWN), keywords, silence, None)


def test_speech_commands_without_background_is_asked_about_silence() -> None:
    bare = table("yes", "no", "cat", protocol="speech_commands")
    with pytest.raises(WordflockError, match="--no-silence"):
        choose_task(bare, [], None, None)
    assert choose_task(bare, [], False, None).labels == ["yes", "no", UNKNOWN]


def test_silence_clips_of_its_own_will_do_for_silence() -> None:
    assert choose_task(table("yes", "no", SILENCE), [], True, None).labels == ["no", "yes", SILENCE]


# Examples

TASK = Task(("yes", "no"), silence=True, unknown=True)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no", "cat", UNKNOWN]), st.sampled_from(SPLITS)), max_size=60), tasks)
def test_examples_are_the_clips_of_the_split_that_have_a_label(drawn: list[tuple[str, str]], task: Task) -> None:
    clips = tuple(clip(word, number, split) for number, (word, split) in enumerate(drawn))
    for split in SPLITS:
        made = examples(ClipTable("/data", "folder", clips), task, split, seed=0)
        expected = [one for one in clips if one.split == split and task.label_of(one.word) is not None]
        assert list(made.clips) == expected
        assert list(made.labels) == [task.label_of(one.word) for one in expected]


@settings(max_examples=30)
@given(clips=st.integers(1, 300), split=st.sampled_from(SPLITS), seed=seeds)
def test_silence_is_a_tenth_of_a_split_and_every_crop_another(clips: int, split: str, seed: int) -> None:
    made = examples(table("yes", "cat", clips=clips, background=[noise("tap"), noise("rain")]), TASK, split, seed)
    silent = [one for one, label in zip(made.clips, made.labels, strict=True) if TASK.labels[label] == SILENCE]
    assert abs(len(silent) - len(made.clips) / 10) <= 0.5
    assert [one.word for one in made.clips[2 * clips :]] == [SILENCE] * len(silent)
    assert len({one.key for one in made.clips}) == len(made.clips)
    assert len({(one.content, one.start) for one in silent}) == len(silent)
    assert all((one.seconds, one.speaker, one.split) == (1.0, "", split) for one in silent)


@settings(max_examples=30)
@given(seed=seeds, lengths=st.lists(st.integers(1000, 400_000), min_size=1, max_size=2))
def test_no_sample_of_noise_is_heard_in_two_splits(seed: int, lengths: list[int]) -> None:
    background = [noise(f"noise {number}", length / SAMPLE_RATE) for number, length in enumerate(lengths)]
    heard = {(one.name, split): np.zeros(10**6, bool) for one in background for split in SPLITS}
    for split in SPLITS:
        for crop in silence_crops(background, split, 80, seed):
            assert crop.start is not None
            first, samples = round(crop.start * SAMPLE_RATE), round(crop.seconds * SAMPLE_RATE)
            assert (crop.start, crop.seconds) == (first / SAMPLE_RATE, samples / SAMPLE_RATE)
            heard[crop.name, split][first : first + samples] = True
    for recording, length in zip(background, lengths, strict=True):
        train, validation, test = (heard[recording.name, split] for split in SPLITS)
        assert train.any()
        assert not (train & validation).any() and not (validation & test).any() and not (train & test).any()
        assert not (train | validation | test)[length:].any()


@settings(max_examples=30)
@given(seed=seeds, split=st.sampled_from(SPLITS), count=st.integers(1, 60))
def test_exactly_one_crop_is_digital_silence_and_the_others_are_heard(seed: int, split: str, count: int) -> None:
    gains = sorted(one.gain for one in silence_crops([noise("tap"), noise("rain")], split, count, seed))
    assert len(gains) == count and gains[0] == 0.0
    assert all(0.01 <= gain <= 1.0 for gain in gains[1:])


@settings(max_examples=20)
@given(seed=seeds, split=st.sampled_from(SPLITS))
def test_the_seed_alone_decides_which_crops_are_silence(seed: int, split: str) -> None:
    background = [noise("tap"), noise("rain")]
    whole = table("yes", "no", clips=20, background=background)
    assert examples(whole, TASK, split, seed) == examples(whole, TASK, split, seed)
    assert examples(whole, TASK, split, seed) != examples(whole, TASK, split, seed + 1)
    # Other words and another task draw the same crops.
    others = examples(table("cat", "no", clips=20, background=background), Task(("cat",), True, True), split, seed)
    assert others.clips[-4:] == examples(whole, TASK, split, seed).clips[-4:]
    assert others.clips[-4].gain == 0.0


@settings(max_examples=30)
@given(seed=seeds, lengths=st.lists(st.integers(1, 2000), min_size=1, max_size=3), count=st.integers(1, 60))
def test_recordings_with_little_room_give_what_they_have(seed: int, lengths: list[int], count: int) -> None:
    """Validation has a tenth of each recording: here a few samples, and hardly a place for another crop."""
    background = [noise(f"noise {number}", samples / SAMPLE_RATE) for number, samples in enumerate(lengths)]
    crops = silence_crops(background, "validation", count, seed)
    assert len(crops) <= min(count, sum(lengths) / 10)
    assert len(crops) == count or sum(lengths) < 50 * count
    assert len({(one.content, one.start) for one in crops}) == len(crops)


@pytest.mark.parametrize("seconds", [1.0, 9.0, 10.002, 15.0])
@pytest.mark.parametrize("split", SPLITS)
def test_short_recordings_are_cut_into_shorter_silence(seconds: float, split: str) -> None:
    made = examples(table("yes", clips=90, background=[noise("tap", seconds)]), TASK, split, seed=0)
    silent = made.clips[90:]
    share = 0.8 if split == "train" else 0.1
    assert len(silent) == 10
    assert [one.seconds for one in silent] == pytest.approx([min(1.0, seconds * share / 2)] * 10, abs=1e-4)


def test_copies_of_a_recording_give_no_more_than_the_recording() -> None:
    """There was a time when this never ended: places were counted for each copy."""
    copies = [replace(noise("tap", 1.0), name=f"copy {number}.wav") for number in range(3)]
    crops = silence_crops(copies, "validation", 10_000, seed=0)
    assert len(crops) == len(silence_crops(copies[:1], "validation", 10_000, seed=0)) == 400


def test_a_split_with_silence_of_its_own_gets_none_added() -> None:
    clips = tuple(clip(word, number) for word in ("yes", "no", SILENCE) for number in range(20))
    clips += tuple(clip("yes", 20 + number, "test") for number in range(18))
    mixed = ClipTable("/data", "folder", clips, (noise(),))
    own = examples(mixed, TASK, "train", seed=0)
    assert [one for one in own.clips if one.word == SILENCE] == [one for one in clips if one.word == SILENCE]
    assert len(own.clips) == 60
    assert [one.word for one in examples(mixed, TASK, "test", seed=0).clips] == ["yes"] * 18 + [SILENCE] * 2


def test_a_task_without_silence_has_none() -> None:
    made = examples(
        table("yes", "no", SILENCE, clips=30, background=[noise()]), Task(("yes", "no"), False, True), "train", 0
    )
    assert {one.word for one in made.clips} == {"yes", "no"}


def test_keywords_are_found_whatever_their_case_or_form() -> None:
    words = table("für", "Ja", "nein")
    task = choose_task(words, ["fu\u0308r", "JA"], False, True)
    assert task.keywords == ("für", "Ja")
    assert [task.label_of(word) for word in ("FÜR", "fu\u0308r", "ja", "nein")] == [0, 0, 1, 2]
    with pytest.raises(WordflockError, match="'für' stands twice"):
        choose_task(words, ["für", "fu\u0308r"], False, True)


def test_an_error_names_forty_labels_at_most() -> None:
    with pytest.raises(WordflockError, match=r"word 139 and 461 more; did you mean word 777\?$"):
        choose_task(table(*(f"word {n}" for n in range(100, 600)), "word 777"), ["word 7777"], None, None)
