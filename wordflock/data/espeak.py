"""espeak-ng, the synthesizer: a shared library that says words in many voices."""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import WordflockError

Samples = NDArray[np.float64]  # shape (samples,), at SAMPLE_RATE, full scale is ±1

# The vocal tracts of espeak-ng 1.52 that are plausible speech: Whisper tiny.en understands most of what they say, and a
# linear head trained on all other tracts knows every word. Left out: robots, echoes, extreme pitches and near-copies.
TRACTS = tuple(
    "Alex Andrea Annie Denis Gene Henrique Lee Mario Michael Mike Nguyen Reed adam anika aunty belinda benjamin "  # noqa: SIM905
    "croak david ed edward f1 f2 f3 f4 f5 grandma grandpa gustave iven4 john klatt klatt3 klatt5 m1 m2 m3 m4 m5 m6 m7 "
    "m8 max michel mike2 norbert pablo paul pedro quincy rob sandro steph victor whisper whisperf".split()
)
NOT_A_DIALECT = "en-shaw"  # another alphabet for en
PHONEMES = "[["  # begins a text of phonemes
_SEPARATOR = "·"  # between phonemes; no language's have it
_STRESSES = "',%=", "ˈˌ"  # in mnemonics and in IPA


@dataclass(frozen=True, order=True)
class Phoneme:
    """A phoneme of a dialect, with its stress where it has one."""

    mnemonic: str  # as espeak-ng writes it
    ipa: str

    def stressed_as(self, other: Phoneme) -> Phoneme:
        """The phoneme with the stress of another one."""
        parts = zip((self.mnemonic, self.ipa), (other.mnemonic, other.ipa), _STRESSES, strict=True)
        return Phoneme(*(two[: len(two) - len(two.lstrip(marks))] + one.lstrip(marks) for one, two, marks in parts))


# The synthesizer


class Espeak:
    """espeak-ng's shared library, in a state that depends on nothing but the calls made to this object.

    What it says depends on what it said before (the phase of the voice's flutter, its gain control, its noise), and
    nothing resets that, not even a new start. So each object loads a copy of the library of its own.
    """

    _SYNCHRONOUS = 2  # samples come to the callback, and nothing is played
    _DO_NOT_EXIT = 0x8000  # return an error instead of ending the process
    _UTF8 = 1
    _TEXT_MAY_BE_PHONEMES = 0x100
    _IPA = 2
    _RATE, _PITCH, _RANGE = 1, 3, 4

    def __init__(self, home: Path) -> None:
        """`home`: an empty folder that lives as long as this object."""
        try:
            import espeakng_loader
        except ImportError as error:
            raise WordflockError(
                "Synthetic words need espeakng-loader, which is missing; install Wordflock with its extra [train]."
            ) from error
        library, self._data = espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path())
        (home / "data").symlink_to(self._data)  # espeak-ng cuts a path to its data at 160 characters
        try:
            self._library = ctypes.CDLL(str(shutil.copy(library, home)))
        except OSError as error:
            raise WordflockError(
                f"espeak-ng cannot be loaded from {home} ({error}): let TMPDIR be a folder that may hold programs."
            ) from error
        self._library.espeak_Info.restype = self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.rate = self._library.espeak_Initialize(self._SYNCHRONOUS, 0, bytes(home / "data"), self._DO_NOT_EXIT)
        if self.rate <= 0:
            raise WordflockError(
                f"espeak-ng finds no voices in {home / 'data'}: install espeakng-loader again, or shorten TMPDIR."
            )
        self.version = self._library.espeak_Info(None).decode()
        self._chunks: list[bytes] = []
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = signature(self._collect)  # kept: ctypes does not keep it alive for the library
        self._library.espeak_SetSynthCallback(self._callback)

    def tracts(self) -> list[str]:
        """Those of TRACTS that this espeak-ng has; it would speak with its usual voice for any other."""
        return [name for name in TRACTS if (self._data / "voices" / "!v" / name).is_file()]

    def dialects(self, language: str) -> list[str]:
        """The names of a language and its dialects; WordflockError for a language that espeak-ng does not speak."""
        names = sorted(file.name.lower() for file in (self._data / "lang").rglob("*") if file.is_file())
        wanted = language.lower()
        found = [name for name in names if f"{name}-".startswith(f"{wanted}-") and name != NOT_A_DIALECT]
        if not found:
            languages = ", ".join(name for name in names if "-" not in name)
            raise WordflockError(f"espeak-ng does not speak the language {language!r}: choose from {languages}.")
        return found

    def phonemes(self, dialect: str, text: str) -> tuple[Phoneme, ...]:
        """How a dialect pronounces a text, without its pauses. Raises WordflockError for a text without a sound."""
        self._set_voice(dialect)
        mnemonics, ipa = (self._transcribed(text, mode) for mode in (0, self._IPA))
        # Pauses and glottal stops have a mnemonic that begins with "_", and names of languages stand in parentheses.
        pairs = zip(mnemonics, ipa, strict=len(mnemonics) == len(ipa))
        found = tuple(
            Phoneme(one, other) for one, other in pairs if other and one[:1] not in ("", "_", "(") and one != "?"
        )
        if not found:
            raise WordflockError(f"espeak-ng has no sound for the word {text!r}: write it in letters.")
        return found

    def _transcribed(self, text: str, mode: int) -> list[str]:
        buffer = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(buffer))
        clauses = []
        while rest.value:
            spoken = self._library.espeak_TextToPhonemes(ctypes.byref(rest), self._UTF8, mode | ord(_SEPARATOR) << 8)
            clauses += spoken.decode().split()
        return [phoneme for word in clauses for phoneme in word.split(_SEPARATOR)]

    def _set_voice(self, name: str) -> None:
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise WordflockError(f"espeak-ng has no voice {name!r}: install espeakng-loader again.")

    def say(self, voice: str, text: str, rate: int, pitch: int, melody: int, seed: int) -> Samples:
        """What a voice makes of a text, or of phonemes between "[[" and "]]", with silence around it.

        The samples are at `self.rate` and not SAMPLE_RATE.
        """
        self._chunks.clear()
        self._set_voice(voice)
        for parameter, value in ((self._RATE, rate), (self._PITCH, pitch), (self._RANGE, melody)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._library.srand(seed)  # the C library's: some voices take their breath from it
        encoded = text.encode()
        flags = self._UTF8 | (self._TEXT_MAY_BE_PHONEMES if text.startswith(PHONEMES) else 0)
        self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, flags, None, None)
        self._library.espeak_Synchronize()
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16) / 2**15

    def _collect(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on
