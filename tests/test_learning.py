"""Which clips of a data set a head learns, and that it says which it does not."""

from __future__ import annotations

from wordflock.data.clips import Clip, ClipTable
from wordflock.progress import reporting
from wordflock.revise.learn import clips_to_learn


def clip(word: str, key: str, split: str = "train") -> Clip:
    return Clip(word, "", split, 1.0, "/x", key, 0, 1, key)


def test_clips_with_other_words_known_ones_and_those_of_other_splits_are_named() -> None:
    clips = [clip("yes", "a"), clip("yes", "a"), clip("yes", "b"), clip("no", "c"), clip("yes", "d", "test")]
    clips += [clip("door", "e"), clip("cat", "f"), clip("cat", "g")]
    table = ClipTable("/words", "folder", tuple(clips))
    said: list[str] = []
    with reporting(said.append):
        assert [each.key for each in clips_to_learn(table, ["yes", "no"], {"b"})] == ["a", "c"]
        assert [each.key for each in clips_to_learn(table, ["yes", "no", "cat", "door"], set())] == [*"abcefg"]
        clips_to_learn(ClipTable("/words", "folder", tuple(clips[:4])), ["yes", "no"], set())
    assert said == [
        "/words: not learned: 3 clips of words that are not labels (cat, door); 1 clip is in the head already; "
        "1 clip is for validation and test",
        "/words: not learned: 1 clip is for validation and test",
    ]
