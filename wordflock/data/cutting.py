"""Long recordings into clips: by labelled intervals, or wherever somebody speaks; the originals stay as they are."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.faults import AudioFault
from wordflock.audio.reading import SAMPLE_RATE, Decoder
from wordflock.audio.voice import PAUSE, levels, stretches
from wordflock.data.cut_folder import CutFolder, Written
from wordflock.data.folder import CONTAINERS
from wordflock.data.intervals import Interval, read_intervals
from wordflock.data.listing import Entry, Reader, is_audio, list_files
from wordflock.data.manifests import Places, split_named
from wordflock.data.names import clean_label, printable
from wordflock.errors import WordflockError, WordflockWarning, counted
from wordflock.progress import progress

MARGIN = 0.15  # seconds before and after a word
MAX_SECONDS = 24 * 3600.0  # of a recording, which is never in memory as a whole
_NAMED = 5
_LABEL_FILES = (".textgrid", ".txt", ".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class _Recording:
    """One file to cut."""

    entry: Entry
    label: str  # of what is not labelled otherwise; "" where nothing says it
    stem: str  # what its clips' names begin with

    @property
    def name(self) -> str:
        return f"{self.label}/{self.stem}" if self.label else self.stem


def cut(
    sources: Sequence[str | Path],
    out: Path,
    *,
    labels: str | Path = "",
    label: str = "",
    tier: str = "",
    margin: float = MARGIN,
    pause: float = PAUSE,
) -> dict[str, Written]:
    """Cut recordings (files, folders, archives) into 16 kHz mono clips `out/<label>/<name>_<number>.wav`.

    `labels` is a file of labelled intervals (see `intervals.py`), which may name its recordings, or a folder with one
    such file for each recording, of the same name; without it, a clip is a stretch in which somebody speaks, and
    stretches closer than `pause` seconds are one. `label` is that of intervals without one; by default the folder that
    the recording is in. Each clip has `margin` seconds more on both sides.

    A cut that was interrupted goes on. Returns the clips of each label. Warns of recordings that cannot be read or hold
    nothing. Raises WordflockError for a folder with other files in it, and for labels that do not fit.
    """
    if not 0 <= margin <= 10 or not 0 <= pause <= 60:
        raise WordflockError(f"A margin of {margin} s with a pause of {pause} s cannot be used; give 0.15 and 0.3 s.")
    recordings = [recording for source in sources for recording in _recordings(str(source), label, not labels)]
    if not recordings:
        raise WordflockError(
            f"{' '.join(map(str, sources))} holds no audio file; name recordings, or a folder of them."
        )
    for source in sources:
        if out.resolve().is_relative_to(Path(source).resolve()):
            raise WordflockError(f"{out} is in {source}, where its clips would be cut again; name another --out.")
    _check_names(recordings, bool(labels))
    said = _intervals(recordings, labels, tier) if labels else None
    faults: list[str] = []
    bar = progress("cutting", len(recordings), "recordings")
    with CutFolder(out) as folder, Reader() as reader, bar as advance:
        for recording in recordings:
            if said is not None and recording.entry not in said:
                continue
            try:
                _cut(recording, None if said is None else said[recording.entry], folder, reader, margin, pause)
            except AudioFault as fault:
                if len(recordings) == 1:
                    raise WordflockError(f"{recording.entry.name} {fault}; {fault.remedy}.") from fault
                faults.append(f"{printable(recording.entry.name)} ({fault})")
            advance()
        written = folder.written()
    _warn("", "cannot be read", faults)
    _warn("hold", "nothing to cut", [printable(name) for name in folder.empty()])
    return written


def labelled(source: str | Path, labels: str | Path) -> dict[Entry, tuple[Interval, ...]]:
    """The recordings in a source that have labels, as `cut` finds them, and their intervals. Raises WordflockError
    where it is not clear whose they are."""
    recordings = list(_recordings(str(source), "", by_folder=False))
    if not recordings:
        raise WordflockError(f"{source} holds no audio file; name recordings, or a folder of them.")
    return _intervals(recordings, labels, "")


def _recordings(source: str, label: str, by_folder: bool) -> Iterator[_Recording]:
    """The recordings in a source; `by_folder` says whether a folder's name is a label."""
    path = Path(source)
    if path.is_file() and is_audio(path.name):
        about = path.stat()
        entry = Entry(path.name, str(path.resolve()), 0, about.st_size, about.st_mtime_ns)
        yield _Recording(entry, label or _label_of(path.parts[:-1] * by_folder, source), path.stem)
        return
    listing = list_files(source)
    above = listing.root.split("/") if listing.root else [path.resolve().name] if path.is_dir() else []
    for entry in listing.entries:
        if entry.is_audio:
            *folders, name = entry.name.split("/")
            folders = folders if not folders or not split_named(folders[0]) else folders[1:]
            found = label or _label_of((folders[:1] or above[-1:]) * by_folder, source)
            yield _Recording(entry, found, "-".join([*folders[by_folder:], Path(name).stem]))


def _label_of(folders: Sequence[str], source: str) -> str:
    """The label that the last of the folders names; "" where it names something else."""
    name = clean_label(folders[-1], source) if folders else ""
    return "" if name.lower() in CONTAINERS or split_named(name) or name in ("", ".", "..", "/") else name


def _check_names(recordings: Sequence[_Recording], labelled: bool) -> None:
    """Raises WordflockError where clips would have no label, or those of two recordings the same names."""
    seen: dict[tuple[str, str], Entry] = {}
    for recording in recordings:
        if not labelled and not recording.label:
            raise WordflockError(
                f"Nothing says what is spoken in {printable(recording.entry.name)}; name the word with --label, or a "
                "file of intervals with --labels."
            )
        key = ("" if labelled else recording.label, recording.stem.casefold())
        if key in seen:
            raise WordflockError(
                f"Clips of {printable(recording.entry.path)} and {printable(seen[key].path)} would have the same "
                "names; rename one, or cut them into two folders."
            )
        seen[key] = recording.entry


def _intervals(recordings: Sequence[_Recording], labels: str | Path, tier: str) -> dict[Entry, tuple[Interval, ...]]:
    """The intervals of each recording that has labels. Raises WordflockError where it is not clear whose they are."""
    if Path(labels).is_dir():
        files = {file.stem: file for file in sorted(Path(labels).rglob("*")) if file.suffix.lower() in _LABEL_FILES}
        stems = {recording.entry: Path(recording.entry.name).stem for recording in recordings}
        missing = [printable(entry.name) for entry, stem in stems.items() if stem not in files]
        if len(missing) == len(recordings):
            raise WordflockError(f"{labels} has no labels for {missing[0]}; name them {Path(missing[0]).stem}.txt.")
        _warn("have", f"no labels in {labels}", missing)
        return {entry: read_intervals(files[stem], tier) for entry, stem in stems.items() if stem in files}
    intervals = read_intervals(labels, tier)
    if not any(interval.file for interval in intervals):
        if len(recordings) > 1:
            raise WordflockError(
                f"{labels} does not say which of the {len(recordings)} recordings its intervals are of; add a column "
                "file, or name a folder with a file of labels for each recording."
            )
        return {recordings[0].entry: intervals}
    entries = {recording.entry.name: recording.entry for recording in recordings}
    places = Places(entries, "")
    found: dict[Entry, list[Interval]] = {entry: [] for entry in entries.values()}
    for interval in intervals:
        name = places.find(interval.file, "", str(labels))
        if not name:
            raise WordflockError(f"{labels} names {printable(interval.file)}, which is not among the recordings.")
        found[entries[name]].append(interval)
    return {entry: tuple(sorted(those, key=lambda interval: interval.start)) for entry, those in found.items()}


def _cut(
    recording: _Recording,
    intervals: tuple[Interval, ...] | None,
    folder: CutFolder,
    reader: Reader,
    margin: float,
    pause: float,
) -> None:
    """Write the clips of one recording, unless they are there. Raises AudioFault where it cannot be read."""
    with _open(recording.entry, reader) as file:
        how = {"pause": pause} if intervals is None else {"intervals": [asdict(interval) for interval in intervals]}
        about = {"content": file_digest(file, "sha256").hexdigest(), "label": recording.label, "margin": margin, **how}
        key = sha256(json.dumps(about).encode()).hexdigest()
        if folder.has(recording.name, key):
            return
        decoder = Decoder(file, MAX_SECONDS)
        level = levels(decoder.blocks())
        if (channel := decoder.loudest_of_cancelling()) is not None:
            level = levels(decoder.blocks(channel))
        if intervals is None:
            intervals = tuple(Interval(start, end, "") for start, end in stretches(level, pause))
        intervals = tuple(replace(interval, label=interval.label or recording.label) for interval in intervals)
        _check(intervals, recording, decoder.seconds)
        spans = [(max(0.0, interval.start - margin), interval.end + margin) for interval in intervals]
        names = [(interval.label, _name(recording, interval, n)) for n, interval in enumerate(intervals, 1)]
        folder.add(recording.name, key, names, crops(decoder.blocks(channel), spans))


def _check(intervals: Sequence[Interval], recording: _Recording, seconds: float) -> None:
    name = printable(recording.entry.name)
    for interval in intervals:
        at = f"The interval at {interval.start:.3f} s of {name}"
        if not interval.label:
            raise WordflockError(f"{at} has no label; write it into the labels, or give --label.")
        if interval.end > seconds + MARGIN or interval.start >= seconds:
            ends = f"ends after {interval.end:.3f} s, and the recording after {seconds:.3f} s"
            raise WordflockError(f"{at} {ends}; are these the labels of this recording?")
        if interval.end <= interval.start:
            raise WordflockError(f"{at} is a point; drag it over the whole word.")


def _name(recording: _Recording, interval: Interval, number: int) -> str:
    speaker = f"{interval.speaker}_nohash_" if interval.speaker else ""
    return f"{speaker}{recording.stem}_{number:03d}"


def crops(blocks: Iterable[NDArray[np.float32]], spans: Sequence[tuple[float, float]]) -> Iterator[NDArray[np.float32]]:
    """Stretches (start and end in seconds, sorted by start) of 16 kHz sound that comes in blocks; a span that reaches
    over the end is shorter."""
    source = iter(blocks)
    kept, first = np.zeros(0, np.float32), 0  # samples, and the place of the first one
    for span in spans:
        start, end = (round(time * SAMPLE_RATE) for time in span)
        while first + len(kept) < end:
            kept, first = kept[max(0, start - first) :], first + min(max(0, start - first), len(kept))
            if (block := next(source, None)) is None:
                break
            kept = np.concatenate((kept, block))
        yield kept[start - first : end - first]


def _open(entry: Entry, reader: Reader) -> BytesIO | BufferedReader:
    return BytesIO(reader.read_bytes(entry)) if entry.offset else Path(entry.path).open("rb")


def _warn(verb: str, problem: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        those = counted(len(names), "recording", verb)
        warnings.warn(f"{those} {problem}: {', '.join(names[:_NAMED])}{more}.", WordflockWarning, 3)
