"""Words that are not a keyword and sound like it: one phoneme changed, a half of it, or joined to a half of another.

They are made of the phonemes of a dialect of espeak-ng, which says them like any word. A head that was trained without
them takes them for the keyword.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from wordflock.data.espeak import PHONEMES, Espeak, Phoneme
from wordflock.randomness import numpy_generator

CHANGED, JOINED = 8, 4  # of a keyword, beside its two halves
LONGEST_JOINED = 9  # phonemes of a keyword that more is joined to: a clip is a second
NUMBERS = range(101)  # which any language can say, with most of its phonemes
_VOWELS = frozenset("iyʏɪɨʉɯuʊeøɘəɚɵɤoɛœɜɝɞʌɔæɐaɶɑɒ")
# Sounds that are too alike to make another word, whoever speaks.
_ALIKE = (
    *("iɪyʏɨ", "eɛøœ", "aæɐɑɒʌ", "oɔɒ", "uʊɯʉ", "əɜɚɐʌɵ", "pb", "td", "kɡgqc", "szʂʐ", "fvʋ", "θð", "ʃʒɕʑç"),
    *("rɹɾʁɻ", "nŋɲ", "mn", "xχhɦ", "jʝi", "wʍu"),
)

Word = tuple[Phoneme, ...]


def confusables(espeak: Espeak, dialect: str, words: Sequence[str], others: Sequence[str], seed: int) -> dict[str, str]:
    """What the words of a data set can be confused with, as texts that voices of the dialect say, by names such as
    `<word>-changed1`, `<word>-half1` and `<word>-joined1`. None of them sounds like one of the words.

    `others` are more words of the language, whose phonemes are used as well.
    """
    spoken = {word: espeak.phonemes(dialect, word) for word in words}
    rest = [espeak.phonemes(dialect, str(word)) for word in (*NUMBERS, *others)]
    inventory = sorted({phoneme for word in (*spoken.values(), *rest) for phoneme in word})
    taken = {sound(word) for word in spoken.values()}
    found: dict[str, str] = {}
    for name, word in spoken.items():
        generator = numpy_generator(seed, "confusables", dialect, name)
        foreign = [half for other in (*spoken.values(), *rest) if other != word for half in halves(other)]
        kinds = (
            ("changed", CHANGED, (changed(word, inventory, generator) for _ in range(10 * CHANGED))),
            ("half", 2, halves(word)),
            ("joined", JOINED, (joined(word, foreign, generator) for _ in range(10 * JOINED))),
        )
        for kind, count, made in kinds:
            new = {sound(one): one for one in made if one and sound(one) not in taken}
            for number, one in enumerate(list(new.values())[:count], 1):
                found[f"{name}-{kind}{number}"] = text_of(one)
    return found


def changed(word: Word, inventory: Sequence[Phoneme], generator: np.random.Generator) -> Word:
    """The word with one phoneme replaced by another vowel or consonant that is not almost the same; () for none."""
    place = int(generator.integers(len(word)))
    choices = [phoneme for phoneme in inventory if _replaces(phoneme, word[place])]
    if not choices:
        return ()
    chosen = choices[generator.integers(len(choices))]
    return (*word[:place], chosen.stressed_as(word[place]), *word[place + 1 :])


def halves(word: Word) -> Iterator[Word]:
    """The word's beginning and its end, cut before the consonant of a syllable that is nearest to its middle; each
    must have a vowel, and the word more than two phonemes."""
    cuts = [i for i in range(1, len(word) - 1) if not is_vowel(word[i]) and is_vowel(word[i + 1])]
    if len(word) > 2:
        cut = min(cuts, key=lambda i: abs(2 * i - len(word)), default=len(word) // 2)
        yield from (half for half in (word[:cut], word[cut:]) if any(map(is_vowel, half)))


def joined(word: Word, foreign: Sequence[Word], generator: np.random.Generator) -> Word:
    """The word with a half of another one before or after it; () where the word is long already."""
    if not foreign or len(word) > LONGEST_JOINED:
        return ()
    half = foreign[int(generator.integers(len(foreign)))]
    return (*half, *word) if generator.random() < 0.5 else (*word, *half)


def sound(word: Word) -> tuple[str, ...]:
    """What a word sounds like, without its stress and the length of its vowels."""
    return tuple(phoneme.ipa.strip("ˈˌː") for phoneme in word)


def text_of(word: Word) -> str:
    """What makes espeak-ng say these phonemes."""
    return f"{PHONEMES}{'|'.join(phoneme.mnemonic for phoneme in word)}]]"


def is_vowel(phoneme: Phoneme) -> bool:
    """Whether a phoneme is a vowel, of which each syllable has one."""
    return phoneme.ipa.lstrip("ˈˌ")[:1] in _VOWELS


def _replaces(phoneme: Phoneme, other: Phoneme) -> bool:
    one, two = phoneme.ipa.lstrip("ˈˌ")[:1], other.ipa.lstrip("ˈˌ")[:1]
    alike = one == two or any(one in group and two in group for group in _ALIKE)
    return is_vowel(phoneme) == is_vowel(other) and not alike
