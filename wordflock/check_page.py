"""What a check found as one HTML page, with a player for each clip that should be listened to."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from io import BytesIO

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.check import Check
from wordflock.data.clips import SPLITS, Clip
from wordflock.data.loading import read_samples
from wordflock.data.names import printable
from wordflock.errors import counted

MAX_SECONDS = 10.0  # of a clip on the page
_STYLE = """
body { font: 16px system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ccc; text-align: left; }
audio { height: 2rem; } code { overflow-wrap: anywhere; }
"""


def check_page(found: Check) -> str:
    """The page; it needs no other file and asks nothing of the network."""
    counts = [
        [label, *(str(n[split]) for split in SPLITS), str(found.speakers[label] or "?")]
        for label, n in found.labels.items()
    ]
    players = _players([suggestion.clip for suggestion in found.suggestions])
    rows = [
        [_code(s.name), escape(s.label), escape(s.suggested), f"{s.margin:.2f}", player]
        for s, player in zip(found.suggestions, players, strict=True)
    ]
    problems = "".join(f"<li><b>{escape(p.kind)}</b>: {escape(printable(p.message))}</li>" for p in found.problems)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(printable(found.source))}</title><style>{_STYLE}</style>
<h1>{escape(printable(found.source))}</h1><p>{counted(found.clips, "clip")}, {counted(len(found.labels), "label")}</p>
<h2>What may be wrong</h2><ul>{problems or "<li>nothing was found</li>"}</ul>
<h2>Most likely labelled wrong</h2>
{_table(["clip", "label", "sounds like", "margin", ""], rows)}
<h2>Clips</h2>
{_table(["label", *SPLITS, "speakers"], [[escape(cell) for cell in row] for row in counts])}
</html>
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>{body}</table>"


def _code(name: str) -> str:
    return f"<code>{escape(printable(name))}</code>"


def _players(clips: Sequence[Clip]) -> list[str]:
    """An audio element for each clip, with the sound in it."""
    import soundfile

    made: dict[Clip, str] = {}
    ordered = sorted(set(clips), key=lambda clip: (clip.path, clip.offset, clip.start or 0.0))
    for clip, samples in zip(ordered, read_samples(replace(clip, augmentation=0) for clip in ordered), strict=True):
        file = BytesIO()
        soundfile.write(file, samples[: round(MAX_SECONDS * SAMPLE_RATE)], SAMPLE_RATE, format="FLAC")
        data = base64.b64encode(file.getvalue()).decode()
        made[clip] = f'<audio controls preload="none" src="data:audio/flac;base64,{data}"></audio>'
    return [made[clip] for clip in clips]
