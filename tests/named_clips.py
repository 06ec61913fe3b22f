"""Clips that exist by name only, for tests whose features are random numbers."""

from __future__ import annotations

from collections.abc import Sequence

from wordflock.data.clips import Clip
from wordflock.data.task import Examples


def named_clips(split: str, labels: Sequence[int]) -> Examples:
    """One clip a label, of seven speakers."""
    clips = [
        Clip("", f"s{n % 7}", split, 1, "nowhere", f"{split}/{n}.wav", 0, 0, f"{n:064x}") for n in range(len(labels))
    ]
    return Examples.of(clips, labels)
