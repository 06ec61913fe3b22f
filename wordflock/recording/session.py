"""What is to be recorded and what is there already: `<out>/<word>/<speaker>_nohash_<take>.wav`.

Files are named as Speech Commands names them, so that every command finds the speaker; a session goes on where the
files say that it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wordflock.data.cut_folder import file_name, wav
from wordflock.data.names import clean_label, fold
from wordflock.data.speech_commands import BACKGROUND
from wordflock.errors import OptionError, WordflockError
from wordflock.files import write_atomically
from wordflock.randomness import numpy_generator
from wordflock.recording.takes import Samples, Take, check_room, find_take

MAX_TAKES = 1000


@dataclass(frozen=True)
class Prompt:
    """A word to say; `take` counts from 0."""

    word: str
    take: int


class Session:
    """A speaker's recordings of some words in a folder."""

    def __init__(self, out: Path, words: Sequence[str], speaker: str, takes: int) -> None:
        """Raises WordflockError for words and speakers that cannot be names of files, or stand there twice."""
        if not 1 <= takes <= MAX_TAKES:
            raise OptionError("takes", takes, f"is not between 1 and {MAX_TAKES}; take 10")
        self.words = [file_name(clean_label(word, "the command"), "word") for word in words]
        self.speaker = file_name(clean_label(speaker, "--speaker"), "speaker")
        if not self.words:
            raise WordflockError("`wordflock data record` needs words; name them, such as yes no 'hey savant'.")
        if len({fold(word) for word in self.words}) < len(self.words) or BACKGROUND in self.words:
            raise WordflockError(f"A word stands twice, or is {BACKGROUND}, in {', '.join(words)}; name each once.")
        if "_nohash_" in self.speaker:
            raise OptionError("speaker", speaker, "has _nohash_ in it, which ends a speaker's name; take another name")
        self.out, self.takes = out, takes
        # Each round has every word, in another order, for words of a list are not said as single words are.
        generator = numpy_generator(0, "record", self.speaker)
        self._prompts = [
            Prompt(self.words[place], take) for take in range(takes) for place in generator.permutation(len(words))
        ]

    @property
    def room(self) -> Path:
        """The file of the room's noise."""
        return self.out / BACKGROUND / f"{self.speaker}.wav"

    def file(self, prompt: Prompt) -> Path:
        """The file of a take."""
        return self.out / prompt.word / f"{self.speaker}_nohash_{prompt.take}.wav"

    def missing(self) -> list[Prompt]:
        """What is left to say, in order."""
        return [prompt for prompt in self._prompts if not self.file(prompt).exists()]

    def keep_room(self, heard: Samples) -> None:
        """Write the room's noise. Raises TakeFault where it cannot be used."""
        self._write(self.room, check_room(heard))

    def keep(self, prompt: Prompt, heard: Samples, begin: int = 0, *, ended: bool = True) -> Take | None:
        """Write the take in what was heard, see `find_take`; None where it may not be over yet.

        Raises TakeFault where it cannot be used.
        """
        take = find_take(heard, begin, ended=ended)
        if take:
            self._write(self.file(prompt), take.samples)
        return take

    def forget(self, prompt: Prompt) -> None:
        """Delete a take, so that it is asked for again."""
        self.file(prompt).unlink(missing_ok=True)

    def _write(self, path: Path, samples: Samples) -> None:
        if not self.out.exists():  # a folder of somebody's voice
            self.out.mkdir(mode=0o700, parents=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, wav(samples))
