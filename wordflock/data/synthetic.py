"""Synthetic spoken words: a data set in the layout of Speech Commands, made on this machine with nothing to download.

espeak-ng (the shared library that espeakng-loader brings) says each word in many voices. A voice is a dialect and a
vocal tract with a pitch, a melody, a tempo, a microphone, a room and a noise level of its own; every take differs
again in all but the room. Validation and test voices have dialects in common with the training voices, but no vocal
tract. https://github.com/espeak-ng/espeak-ng, `speak_lib.h`; layout: Warden 2018, arXiv:1804.03209.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import soxr

from wordflock.audio.augment import add_noise, add_reverb, coloured_noise, level, swell
from wordflock.audio.reading import SAMPLE_RATE
from wordflock.data.clips import SPLITS
from wordflock.data.confusables import confusables
from wordflock.data.espeak import Espeak, Samples
from wordflock.data.speech_commands import UNKNOWN
from wordflock.data.voices import Voice, make_voices, say
from wordflock.errors import WordflockError
from wordflock.randomness import numpy_generator

EDITION = 1  # raise it with every change that changes the bytes of a data set: it is a part of the recipe

# The words of Speech Commands v0.02, the ten usual keywords first.
WORDS = tuple(
    "yes no up down left right on off stop go "  # noqa: SIM905 (a list would take a line for every word)
    "backward bed bird cat dog eight five follow forward four happy house learn "
    "marvin nine one seven sheila six three tree two visual wow zero".split()
)
CLIP_SAMPLES = SAMPLE_RATE  # 1 s
BACKGROUND_SECONDS = 40
MAX_NUMBER = 30  # of those said in other languages than English
FOLDER = "synthetic"  # in the cache


def synthesize(
    folder: Path,
    *,
    words: Sequence[str] = WORDS[:10],
    others: Sequence[str] = WORDS[10:],
    voices: int = 100,
    takes: int = 2,
    language: str = "en",
    seed: int = 0,
    confusables: bool = False,
    progress: bool = True,
) -> None:
    """Write a data set of 16 kHz one-second FLAC clips to `folder`: `<word>/<speaker>_nohash_<n>.flac`.

    Each of `voices` training voices says every one of `words` `takes` times, and 1.5 × `takes` clips of `others`, the
    words that a task calls unknown. A sixth as many voices again for validation and for testing say everything twice
    as often; `validation_list.txt` and `testing_list.txt` name their clips. `_background_noise_` holds recordings
    without speech. With `confusables`, each voice also says as many words that sound like `words` (see confusables.py);
    they are in `_unknown_`. `language` is a language of espeak-ng with all its dialects ("en", "de"), or a dialect
    ("en-us").

    The same arguments give the same bytes, with the same espeak-ng on the same type of machine. The folder appears
    only when it is complete; one that holds this very data set is left as it is. `progress` needs a terminal.

    Raises WordflockError: espeakng-loader is not installed, the folder holds something else or cannot be made, a word
    cannot be spoken or cannot name a folder, or a number or the language is out of range.
    """
    words = _checked(words)
    others = tuple(word for word in _checked(others) if word not in words)
    recipe = _Recipe(words, others, voices, takes, language, seed, confusables)
    for name, value, least in (("words", len(words), 1), ("voices", voices, 1), ("takes", takes, 1), ("seed", seed, 0)):
        if value < least:
            raise WordflockError(f"A data set cannot have {name} = {value}: give {least} or more.")
    folder = folder.resolve()
    with TemporaryDirectory(prefix="wordflock-") as home:
        espeak = Espeak(Path(home))
        readme = recipe.readme(espeak.version)
        if _holds(folder, readme):
            return
        cast = make_voices(espeak, language, recipe.voices_of, seed)
        for word in (*words, *others):
            say(espeak, cast[0], word, numpy_generator(seed, "audition", word))  # fails before anything is written
        with new_folder(folder) as whole:
            _record(whole, espeak, cast, recipe, progress)
            (whole / "README.txt").write_bytes(readme.encode())
        _holds(folder, readme)  # another process may have been quicker, with something else


def synthetic_words(cache: Path, language: str, words: Sequence[str]) -> Path:
    """The data set of these words in a language, and of words that sound alike, in the cache; made the first time.

    Without a language that of English words of Speech Commands. Raises WordflockError as `synthesize`, and for a
    language without words.
    """
    if not language:
        synthesize(cache / FOLDER)
        return cache / FOLDER
    if not words:
        raise WordflockError(f"--language {language} has no words to say; name them, as --keywords ja,nein.")
    others = other_words(language, words)
    about = json.dumps([EDITION, language, *words])
    folder = cache / f"{FOLDER}-{language}-{sha256(about.encode()).hexdigest()[:12]}"
    synthesize(folder, words=words, others=others, language=language, confusables=True)
    return folder


def other_words(language: str, words: Sequence[str]) -> list[str]:
    """Words for `_unknown_`: English ones, or numbers, which every language can say."""
    is_english = language.lower().partition("-")[0] == "en"
    return [word for word in (WORDS if is_english else map(str, range(MAX_NUMBER + 1))) if word not in words]


def _checked(words: Sequence[str]) -> tuple[str, ...]:
    """The words without repetitions; WordflockError for one that cannot be the name of a folder of clips."""
    for word in words:
        if not any(letter.isalnum() for letter in word):
            raise WordflockError(f"The word {word!r} has no sound: write it in letters.")
        if word != word.strip() or word[0] in "_." or not word.isprintable() or set(word) & set("/\\"):
            raise WordflockError(
                f"The word {word!r} cannot name a folder of clips: write it without slashes, line breaks or outer "
                "spaces, and begin it with neither '_' nor '.'."
            )
    return tuple(dict.fromkeys(words))


@dataclass(frozen=True)
class _Recipe:
    """What a data set is made from, apart from espeak-ng itself."""

    words: tuple[str, ...]
    others: tuple[str, ...]
    voices: int  # for training
    takes: int  # of a word by a training voice
    language: str
    seed: int
    confusables: bool = False

    @property
    def voices_of(self) -> dict[str, int]:
        """By split: a sixth as many for validation, and again for testing, as for training."""
        sixth = max(1, self.voices // 6)
        return {"train": self.voices, "validation": sixth, "test": sixth}

    def takes_of(self, split: str) -> int:
        """Of each word, by a voice of the split: twice as many where there are few voices to measure by."""
        return self.takes if split == "train" else 2 * self.takes

    def others_of(self, split: str) -> int:
        """Clips of other words, all together, by a voice of the split."""
        return -(-3 * self.takes_of(split) // 2) if self.others else 0

    def readme(self, version: str) -> str:
        """The whole recipe: equal text means equal bytes."""
        return f"""\
Synthetic spoken words in the layout of Speech Commands. Nobody speaks here: espeak-ng does.
Made by wordflock.data.synthetic.synthesize with this recipe.

edition: {EDITION}
espeak-ng: {version}
language: {self.language}
seed: {self.seed}
voices: {self.voices} for training, {self.voices_of["validation"]} for validation, {self.voices_of["test"]} for testing
takes of a word by a voice: {self.takes_of("train")} for training, {self.takes_of("test")} otherwise
clips of other words by a voice: {self.others_of("train")} for training, {self.others_of("test")} otherwise
words: {json.dumps(self.words, ensure_ascii=False)}
other words: {json.dumps(self.others, ensure_ascii=False)}
""" + ("words that sound like the words: as many clips again\n" if self.confusables else "")


def _holds(folder: Path, readme: str) -> bool:
    """Whether the data set is there already; WordflockError when something else is."""
    if not folder.exists():
        return False
    file = folder / "README.txt"
    if file.is_file() and file.read_bytes() == readme.encode():
        return True
    raise WordflockError(f"{folder} exists and is not the data set asked for: name another folder, or remove this one.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `folder` in one step when it is whole, unless another process was quicker.

    Raises WordflockError where it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as error:
        raise WordflockError(f"{folder} cannot be made ({error.strerror}): name a folder you may write to.") from error
    with scratch as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        yield whole
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


# The recordings


def _record(folder: Path, espeak: Espeak, cast: Sequence[Voice], recipe: _Recipe, progress: bool) -> None:
    """Write background, clips and lists into an empty folder, in an order that never changes (see Espeak)."""
    from rich.console import Console
    from rich.progress import track

    backgrounds = _backgrounds(espeak, cast[: recipe.voices], recipe)
    for name, samples in backgrounds.items():
        write(folder / "_background_noise_" / f"{name}.flac", samples)
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    dialects = sorted({voice.dialect for voice in cast}) if recipe.confusables else []
    alike = {dialect: _alike(espeak, dialect, recipe) for dialect in dialects}
    script = [(voice, line) for voice in cast for line in _script(voice, recipe, alike.get(voice.dialect, {}))]
    hidden = not (progress and sys.stderr.isatty())
    for voice, line in track(script, "Synthesizing words", console=Console(stderr=True), disable=hidden):
        generator = numpy_generator(recipe.seed, "clip", voice.index, line.name, line.take)
        name = f"{line.folder}{voice.speaker}_nohash_{line.take}.flac"
        try:
            spoken = say(espeak, voice, line.text, generator)
        except WordflockError:
            if line.text == line.name:  # else too long a word that some other one was joined to: one less
                raise
            continue
        write(folder / name, _take(spoken, voice, list(backgrounds.values()), generator))
        lists[voice.split].append(name)
    for split, file in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
        (folder / file).write_bytes("".join(f"{name}\n" for name in sorted(lists[split])).encode())


@dataclass(frozen=True)
class _Line:
    """What a voice says, and where the clip goes: the folder, with the beginning of the file's name if it has one."""

    folder: str
    name: str  # a word, or what a word that sounds like one is called
    text: str
    take: int


def _script(voice: Voice, recipe: _Recipe, alike: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[_Line]:
    """Every take of one voice."""
    takes = recipe.takes_of(voice.split)
    for word, take in product(recipe.words, range(takes)):
        yield _Line(f"{word}/", word, word, take)
    # Voice after voice goes on in a list, so that what is in it comes about equally often.
    count = recipe.others_of(voice.split)
    for i in range(count):
        word = recipe.others[(voice.index * count + i) % len(recipe.others)]
        yield _Line(f"{word}/", word, word, i // len(recipe.others))
    for those in alike.values():
        for i in range(takes if those else 0):
            name, text = those[(voice.index * takes + i) % len(those)]
            yield _Line(f"{UNKNOWN}/{name.replace('_', '-')}_", name, text, i)


def _alike(espeak: Espeak, dialect: str, recipe: _Recipe) -> dict[str, list[tuple[str, str]]]:
    """By word, names and texts of what sounds like it, all kinds of likeness in turn."""
    found = confusables(espeak, dialect, recipe.words, recipe.others, recipe.seed)
    order = numpy_generator(recipe.seed, "likeness").permutation(len(found))
    shuffled = [list(found.items())[i] for i in order]
    return {word: [(n, text) for n, text in shuffled if n.rpartition("-")[0] == word] for word in recipe.words}


def _take(spoken: Samples, voice: Voice, backgrounds: Sequence[Samples], generator: np.random.Generator) -> Samples:
    """The clip: the word somewhere in its second, in the voice's room, with some background behind it."""
    clip = np.zeros(CLIP_SAMPLES)
    start = int(generator.triangular(0, 0.5, 1) * (CLIP_SAMPLES - len(spoken)))
    clip[start : start + len(spoken)] = spoken
    clip = add_reverb(clip, voice.room)
    background = backgrounds[int(generator.integers(len(backgrounds)))]
    begin = generator.integers(len(background) - CLIP_SAMPLES)
    noise = background[begin : begin + CLIP_SAMPLES]
    snr = voice.snr + generator.uniform(-4, 4)
    noisy = add_noise(clip, noise, snr, speech=clip[start : start + len(spoken)])
    return scaled(noisy, 10 ** (-(voice.loudness + generator.uniform(-3, 3)) / 20))


def _backgrounds(espeak: Espeak, voices: Sequence[Voice], recipe: _Recipe) -> dict[str, Samples]:
    """Recordings without intelligible speech, each BACKGROUND_SECONDS long."""
    generator = numpy_generator(recipe.seed, "background")
    seconds = np.arange(BACKGROUND_SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    mains = generator.choice([50, 60])
    size = len(seconds)
    hum = 0.1 * coloured_noise(size, 1, generator)
    for k in range(1, 25):
        hum += np.sin(2 * np.pi * (mains * k * seconds + generator.random())) / k
    return {
        "white_noise": scaled(coloured_noise(size, 0, generator), 0.3),
        "pink_noise": scaled(coloured_noise(size, 1, generator), 0.5),
        "mains_hum": scaled(hum, 0.3),
        "traffic": scaled(coloured_noise(size, 2, generator, lowest=40) * swell(size, 0.5, generator), 0.7),
        "gusts": scaled(coloured_noise(size, 1.3, generator, lowest=200) * swell(size, 4, generator), 0.5),
        "babble": scaled(_babble(espeak, voices, recipe.others or recipe.words, generator), 0.2),
    }


def _babble(espeak: Espeak, voices: Sequence[Voice], words: Sequence[str], generator: np.random.Generator) -> Samples:
    """Eight voices talking at once, played backwards: the sound of speech without a word in it."""
    total = np.zeros(BACKGROUND_SECONDS * SAMPLE_RATE)
    for i in range(8):
        voice = voices[i % len(voices)]
        text = " ".join(generator.choice(words, 100))
        samples = espeak.say(voice.name, text, voice.rate, voice.pitch, voice.melody, int(generator.integers(2**31)))
        talk = soxr.resample(samples[::-1], espeak.rate, SAMPLE_RATE)
        total += np.roll(np.resize(talk / max(level(talk), 1e-6), len(total)), generator.integers(len(total)))
    return total


def scaled(samples: Samples, peak: float) -> Samples:
    """The samples, their loudest at `peak` of full scale."""
    return samples * (peak / max(float(np.abs(samples).max()), 1e-6))


def write(file: Path, samples: Samples) -> None:
    """Write a FLAC file."""
    encoded = BytesIO()  # given a file, soundfile waits for the disk after each
    soundfile.write(encoded, np.round(samples * (2**15 - 1)).astype(np.int16), SAMPLE_RATE, "PCM_16", format="FLAC")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encoded.getvalue())
