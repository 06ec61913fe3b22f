"""What a sentence shows of names that are very long, or meant for the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wordflock.errors import JOINERS, MAX_BEGINNING, MAX_END, brief


@given(text=st.text(max_size=300))
def test_a_sentence_is_one_line_that_no_terminal_takes_for_a_command(text: str) -> None:
    shown = brief(text)
    assert all(c.isprintable() or c in JOINERS for c in shown)
    assert text.isprintable() <= (shown == text)


def test_lists_and_names_without_end_lose_their_middle() -> None:
    assert len(brief("a" * 100_000)) < 400
    assert len(brief("ab " * 100_000)) < MAX_BEGINNING + MAX_END + 10
    assert brief("caf\u00e9 \u0646\u0645\u06cc\u200c\u0634\u0648\u062f").endswith("\u200c\u0634\u0648\u062f")
