"""What a look at recordings would find, without any."""

from __future__ import annotations

from collections.abc import Mapping

from wordflock.data.listing import Entry, Listing
from wordflock.data.scan import Recording, Scan


def scan_of(
    *names: str, root: str = "", contents: Mapping[str, str] | None = None, texts: Mapping[str, str] | None = None
) -> Scan:
    """What a look at good recordings of a second with these names finds."""
    entries = tuple(Entry(name, f"/data/{name}", 0, 1000, 0) for name in sorted(names))
    recordings = (Recording(entry, (contents or {}).get(entry.name, entry.name), 1.0, "") for entry in entries)
    return Scan(Listing("/data", entries, root), tuple(recordings), dict(texts or {}))
