"""A session on a terminal: the word in large, the countdown, a level meter, and keys."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from wordflock.recording.session import Prompt, Session
from wordflock.recording.takes import Samples, Take, TakeFault
from wordflock.spotting.live import level_bar

if TYPE_CHECKING:
    from rich.live import Live

HELP = "r: say the last one again   p: play it   space: pause   q: quit"


class Terminal:
    """Tells a speaker what to do: in place on a terminal, line by line elsewhere."""

    def __init__(self, session: Session) -> None:
        from rich.console import Console

        self._session = session
        self._console = Console(stderr=True, highlight=False)
        self._title = self._state = ""
        self._live: Live | None = None

    def __enter__(self) -> Terminal:
        from rich.live import Live

        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def room(self, left: float) -> None:
        self._show("The room first: keep quiet", f"{left:.0f} s")

    def ready(self, prompt: Prompt, left: float) -> None:
        done = self._session.takes * len(self._session.words) - len(self._session.missing())
        self._title = f"Get ready for “{prompt.word}”"
        self._state = f"{left:.1f} s   {done} of {self._session.takes * len(self._session.words)} done"

    def ask(self, prompt: Prompt) -> None:
        self._show(f"Say “{prompt.word}”", "now")

    def heard(self, block: Samples) -> None:
        if self._live:
            from rich.panel import Panel
            from rich.text import Text

            text = Text.assemble(
                (f"\n  {self._title}\n", "bold"), f"  {self._state}\n\n  {level_bar(block)}\n\n", (f"  {HELP}", "dim")
            )
            self._live.update(Panel(text, width=min(78, self._console.width)), refresh=True)

    def kept(self, prompt: Prompt, take: Take) -> None:
        self._say(f"{prompt.word}: kept, {take.seconds:.2f} s, {take.level:.0f} dB")

    def fault(self, what: str, fault: TakeFault) -> None:
        self._say(f"{what}: {fault}")

    def paused(self) -> None:
        self._show(self._title, "paused; press any key")
        self.heard(np.zeros(1, np.float32))

    def _show(self, title: str, state: str) -> None:
        if not self._live and title != self._title:
            self._say(title)
        self._title, self._state = title, state

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


@contextmanager
def pressed_keys() -> Iterator[Callable[[], str]]:
    """A function that gives the key pressed since it was last asked, "" for none, or without a terminal.

    Keys are those of the terminal, not of standard input, which may be sound.
    """
    try:
        import termios
        import tty

        file = os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK) if os.isatty(2) else -1  # rich replaces sys.stderr
        before = termios.tcgetattr(file) if file >= 0 else []
    except (ImportError, OSError):  # not on Unix; no terminal of its own
        file = -1
    if file < 0:
        yield lambda: ""
        return

    def key() -> str:
        return os.read(file, 1).decode("latin-1") if select.select([file], [], [], 0)[0] else ""

    try:
        tty.setcbreak(file)
        yield key
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
        os.close(file)
