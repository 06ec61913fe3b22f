"""Words that sound like a word: made of its phonemes, said by espeak-ng, none of them a word of the data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wordflock.data import synthetic
from wordflock.data.confusables import CHANGED, JOINED, LONGEST_JOINED, confusables, halves, sound, text_of
from wordflock.data.espeak import Espeak, Phoneme
from wordflock.data.loading import load_clips
from wordflock.data.synthetic import other_words, synthesize
from wordflock.errors import WordflockError
from wordflock.prepare import load_table
from wordflock.settings import Settings

pytest.importorskip("espeakng_loader", reason="synthetic words need espeakng-loader")

LANGUAGES = [
    ("en-us", ["amelia", "athena", "yes", "no", "go"]),
    ("de", ["licht", "ja", "ausschalten"]),
    ("fr", ["bonjour", "oui"]),
    ("cmn", ["你好"]),
    ("ar", ["نعم"]),
    ("hi", ["नमस्ते"]),
]


@pytest.fixture(scope="module")
def espeak(tmp_path_factory: pytest.TempPathFactory) -> Espeak:
    return Espeak(tmp_path_factory.mktemp("espeak"))


@pytest.fixture
def short_backgrounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(synthetic, "BACKGROUND_SECONDS", 4)
    yield


@pytest.mark.parametrize(("dialect", "word"), [("en-us", "amelia"), ("de", "licht"), ("fr", "bonjour"), ("hi", "नमस्ते")])
def test_the_phonemes_of_a_word_are_said_as_the_word_is(dialect: str, word: str, tmp_path: Path) -> None:
    said = []
    for number, text in enumerate([word, None]):
        (tmp_path / str(number)).mkdir()
        fresh = Espeak(tmp_path / str(number))  # what it says depends on what it said before
        phonemes = fresh.phonemes(dialect, word)
        said.append(fresh.say(f"{dialect}+f3", text or text_of(phonemes), 150, 50, 50, seed=1))
    np.testing.assert_array_equal(*said)


@pytest.mark.parametrize(("dialect", "words"), LANGUAGES)
def test_each_is_what_its_name_says_and_none_is_a_word(dialect: str, words: list[str], espeak: Espeak) -> None:
    spoken = {word: espeak.phonemes(dialect, word) for word in words}
    texts = {text_of(phonemes) for phonemes in spoken.values()}
    found = confusables(espeak, dialect, words, [], seed=0)
    assert found == confusables(espeak, dialect, words, [], seed=0) and not texts & set(found.values())
    for word, phonemes in spoken.items():
        own = {name.rpartition("-")[2]: text for name, text in found.items() if name.rpartition("-")[0] == word}
        assert len(set(own.values())) == len(own)
        assert [name for name in own if "changed" in name] == [f"changed{number}" for number in range(1, CHANGED + 1)]
        assert sum("joined" in name for name in own) == JOINED * (len(phonemes) <= LONGEST_JOINED)
        mnemonics = [phoneme.mnemonic for phoneme in phonemes]
        for name, text in own.items():
            other = text[2:-2].split("|")
            if "changed" in name:
                assert len(other) == len(mnemonics)
                assert sum(one != two for one, two in zip(other, mnemonics, strict=True)) == 1
            elif "half" in name:
                assert len(other) < len(mnemonics)
                assert other in (mnemonics[: len(other)], mnemonics[-len(other) :])
            else:
                assert len(other) > len(mnemonics)
                assert mnemonics in (other[: len(mnemonics)], other[-len(mnemonics) :])


def test_a_change_that_makes_another_word_of_the_data_set_is_left_out(espeak: Espeak) -> None:
    words = ["go", "no", "toe", "so", "bow", "doe", "foe", "low", "mow", "row", "though", "show"]
    sounds = {sound(espeak.phonemes("en-us", word)) for word in words}
    assert len(sounds) == len(words)
    texts = {text_of(espeak.phonemes("en-us", word)) for word in words}
    assert not texts & set(confusables(espeak, "en-us", words, [], seed=3).values())


def test_halves_are_cut_before_a_syllable_and_have_a_vowel() -> None:
    def word(ipa: str) -> tuple[Phoneme, ...]:
        return tuple(Phoneme(letter, letter) for letter in ipa)

    cut = {ipa: ["".join(p.ipa for p in half) for half in halves(word(ipa))] for ipa in ("amila", "no", "stop", "lixt")}
    assert cut == {"amila": ["ami", "la"], "no": [], "stop": ["top"], "lixt": ["li"]}


def test_a_data_set_has_them_as_unknown_and_its_speakers_stay_in_their_splits(
    tmp_path: Path, short_backgrounds: None
) -> None:
    words = ("licht", "guten tag")
    synthesize(tmp_path / "a", words=words, others=("1", "2"), voices=3, takes=2, language="de", confusables=True)
    table = load_clips(tmp_path / "a", cache=tmp_path / "cache")
    unknown = [clip for clip in table.clips if clip.word == "_unknown_"]
    assert len(unknown) == 2 * (3 * 2 + 2 * 4) and not table.faults
    assert {clip.name.split("/")[1].split("-")[0] for clip in unknown} == set(words)
    homes = {(clip.speaker, clip.split) for clip in table.clips}
    assert len(homes) == len({speaker for speaker, _ in homes}) == 5
    synthesize(tmp_path / "b", words=words, others=("1", "2"), voices=3, takes=2, language="de", confusables=True)
    for file in (tmp_path / "a").rglob("*.*"):
        assert (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes() == file.read_bytes()


def test_other_words_are_of_the_language() -> None:
    assert "marvin" in other_words("en-us", ["yes"]) and "yes" not in other_words("en", ["yes"])
    assert other_words("de", ["3"])[:4] == ["0", "1", "2", "4"]


def test_training_says_keywords_in_a_language(
    tmp_path: Path, short_backgrounds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WordflockError, match="--keywords ja,nein"):
        load_table(Settings(language="de", cache=str(tmp_path)))
    asked: list[dict[str, object]] = []
    make = synthesize
    monkeypatch.setattr(
        synthetic, "synthesize", lambda folder, **how: (asked.append(how), make(folder, voices=2, **how))
    )
    table = load_table(Settings(language="de", keywords="ja, nein", cache=str(tmp_path)))
    assert {"ja", "nein", "0", "_unknown_"} <= {clip.word for clip in table.clips}
    again = load_table(Settings(language="de", keywords="nein", cache=str(tmp_path)))
    assert again.source != table.source and len(asked) == 2
