"""A detector on live sound, and on long recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.spotting.detector import Detection, Detector
from wordflock.spotting.listener import open_listener
from wordflock.spotting.live import Lost, Source, file_blocks, live


def listen(detector: Detector, source: Source) -> Iterator[NDArray[Any] | Lost | Detection]:
    """Each chunk of a source, then what was heard in it; and what was lost, after what was heard before the gap.

    Raises WordflockError where the source cannot be read any more.
    """
    for item in live(source):
        if isinstance(item, Lost):
            yield from detector.gap(item.samples)
            yield item
        else:
            yield item
            yield from detector.feed(item)
    yield from detector.gap()


def spot(
    model: str | Path, files: Sequence[str], threshold: float | Mapping[str, float] | None = None
) -> Iterator[tuple[str, Detection | WordflockError]]:
    """What is heard in recordings of any length: the file and the detection, or the error that ends a file.

    Raises WordflockError for a model that cannot be read.
    """
    listener = open_listener(model)
    for file in files:
        try:
            source = file_blocks(file)
            detector = Detector(listener, threshold=threshold, rate=source.rate)
            yield from ((file, heard) for heard in detector.stream(source.chunks))
        except WordflockError as error:
            yield file, error
