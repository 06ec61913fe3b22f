"""A recording session at a microphone or a pipe: what is said when follows from the sound alone.

Time is counted in samples that came, not by a clock: the countdown, the patience and the end of a word are the same for
a microphone, a FIFO and a file, and nothing that was spoken waits in a queue while somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.errors import WordflockError, counted
from wordflock.recording.session import Prompt, Session
from wordflock.recording.takes import ROOM_SECONDS, Samples, Take, TakeFault
from wordflock.spotting.live import Lost, Source, live
from wordflock.spotting.windows import mono

CONTEXT = SAMPLE_RATE  # samples before the sign that are kept: noise to compare the word with
EVERY = SAMPLE_RATE // 10  # samples between two looks for the word
MAX_FAILURES = 5  # bad takes in a row


class View(Protocol):
    """What a session tells its speaker."""

    def room(self, left: float) -> None:
        """The room's noise is recorded, for so many seconds more."""

    def ready(self, prompt: Prompt, left: float) -> None:
        """The word to say, and the seconds until the sign."""

    def ask(self, prompt: Prompt) -> None:
        """The sign."""

    def heard(self, block: Samples) -> None:
        """How loud it is."""

    def kept(self, prompt: Prompt, take: Take) -> None:
        """A take is kept."""

    def fault(self, what: str, fault: TakeFault) -> None:
        """A take, or the room's noise, cannot be used."""

    def paused(self) -> None:
        """Nothing is recorded until the next key."""


class _Restart(Exception):
    """The speaker wants the word asked for again."""


class _Quit(Exception):
    """The speaker wants to stop."""


class Recorder:
    """Asks for the missing takes of a session, one after the other."""

    def __init__(
        self,
        session: Session,
        source: Source,
        view: View,
        *,
        countdown: float,
        key: Callable[[], str] = lambda: "",
        play: Callable[[Samples], None] = lambda samples: None,
    ) -> None:
        """`countdown` is in seconds; `key` gives the key that was pressed, "" for none, and `play` plays 16 kHz."""
        self._session, self._view, self._key, self._play = session, view, key, play
        self._sound = _blocks(source)
        self._countdown = countdown
        self._last: tuple[Prompt, Take] | None = None

    def run(self, room: bool = True) -> bool:
        """Record until nothing is missing, with the noise of the room first; tells whether that is so.

        Raises WordflockError where the sound ends, or take after take cannot be used.
        """
        failures = 0
        try:
            while (is_room := room and not self._session.room.exists()) or self._session.missing():
                prompt = None if is_room else self._session.missing()[0]
                try:
                    self._take(prompt) if prompt else self._record_room()
                    failures = 0
                except _Restart:
                    failures = 0
                except TakeFault as fault:
                    self._view.fault(prompt.word if prompt else "the room", fault)
                    failures += 1
                    if failures == MAX_FAILURES:
                        remedy = "" if prompt else " Leave the room's noise out with --no-room."
                        raise WordflockError(
                            f"{failures} recordings in a row could not be used: {fault}{remedy}"
                        ) from None
        except _Quit:
            return False
        return True

    def _record_room(self) -> None:
        heard: list[Samples] = []
        samples, left = 0, round(ROOM_SECONDS * SAMPLE_RATE)
        while samples < left:
            self._view.room((left - samples) / SAMPLE_RATE)
            heard.append(self._block())
            samples += len(heard[-1])
        self._session.keep_room(np.concatenate(heard)[:left])

    def _take(self, prompt: Prompt) -> None:
        before = self._wait(self._countdown, lambda left: self._view.ready(prompt, left))
        self._view.ask(prompt)
        heard, looked = before, len(before)
        while True:
            block = self._block(last=len(heard) - len(before))
            heard = np.concatenate((heard, block))
            if len(heard) - looked >= EVERY or not len(block):
                looked = len(heard)
                if take := self._session.keep(prompt, heard, len(before), ended=not len(block)):
                    self._last = prompt, take
                    self._view.kept(prompt, take)
                    return

    def _wait(self, seconds: float, tell: Callable[[float], None]) -> Samples:
        """Let time pass; returns the last of what was heard."""
        heard, left = np.zeros(0, np.float32), round(seconds * SAMPLE_RATE)
        while left > 0:
            tell(left / SAMPLE_RATE)
            block = self._block()
            left -= len(block)
            heard = np.concatenate((heard, block))[-CONTEXT:]
        return heard

    def _block(self, last: int = 0) -> Samples:
        """The next sound, and what a key asks for. At the end of the sound, an empty block where a take has `last`
        samples already. Raises WordflockError where it has none."""
        block = next(self._sound, None)
        if block is None:
            if last:
                return np.zeros(0, np.float32)
            left = len(self._session.missing())
            raise WordflockError(
                f"The sound ended, and {counted(left, 'take', 'are')} missing; run the command again to go on."
            )
        if isinstance(block, Lost):
            raise TakeFault("incomplete, for this machine was busy; end other programs.")
        self._view.heard(block)
        match self._key():
            case "q":
                raise _Quit
            case " ":
                self._view.paused()
                while not self._key() and next(self._sound, None) is not None:
                    pass
                raise _Restart
            case "r" if self._last:
                self._session.forget(self._last[0])
                self._last = None
                raise _Restart
            case "p" if self._last:
                self._play(self._last[1].samples)
                self._wait(self._last[1].seconds, lambda left: None)
                raise _Restart
        return block


def _blocks(source: Source) -> Iterator[Samples | Lost]:
    """The sound as 16 kHz mono, and what was lost of it."""
    import soxr

    stream = soxr.ResampleStream(source.rate, SAMPLE_RATE, 1, dtype="float32")
    for item in live(source):
        if isinstance(item, Lost):
            yield item
            continue
        block: Samples = mono(item) if source.rate == SAMPLE_RATE else stream.resample_chunk(mono(item))
        if len(block):
            yield block
