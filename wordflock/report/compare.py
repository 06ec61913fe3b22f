"""`wordflock compare`: runs side by side, with paired differences of accuracy on the clips that they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from wordflock.errors import WordflockError
from wordflock.report import facts
from wordflock.report.facts import RunFacts
from wordflock.runs import METRICS

# Options that say where a run was made, not what it is.
WHERE = {"mode", "name", "runs", "cache", "workers", "device", "track"}


@dataclass(frozen=True)
class Difference:
    """Accuracy of one run minus that of another, on the test clips of both."""

    run: str
    against: str
    clips: int
    value: float
    interval: tuple[float, float]  # 95%, by a bootstrap over speakers
    p: float  # McNemar's exact test, two-sided

    @property
    def verdict(self) -> str:
        """What the figures show, in words."""
        low, high = self.interval
        if low <= 0 <= high:
            return "no difference shown"
        return "better" if low > 0 else "worse"


def difference(run: RunFacts, against: RunFacts) -> Difference | None:
    """The paired difference of two runs; None where they have no test clips in common.

    The interval draws whole speakers (Efron's bootstrap of clusters); clips without a speaker are drawn one by one.
    """
    theirs = {(row.clip, row.start, row.label): row.correct for row in against.predictions}
    speakers = defaultdict[str, list[float]](list)
    wins = losses = 0
    for number, row in enumerate(run.predictions):
        other = theirs.get((row.clip, row.start, row.label))
        if other is None:
            continue
        speakers[row.speaker or f"\0{number}"].append(float(row.correct) - float(other))
        wins += row.correct and not other
        losses += other and not row.correct
    groups = list(speakers.values())
    if not groups:
        return None
    clips = sum(map(len, groups))
    value = sum(map(sum, groups)) / clips
    return Difference(run.name, against.name, clips, value, facts.bootstrap(groups), mcnemar(wins, losses))


def mcnemar(wins: int, losses: int) -> float:
    """The probability of a split at least as uneven if neither run were better (McNemar 1947, exact)."""
    discordant, fewer = wins + losses, min(wins, losses)
    if not discordant:
        return 1.0
    tail = sum(comb(discordant, k) for k in range(fewer + 1))
    return float(min(1.0, 2 * tail / 2**discordant))


def differing_options(runs: Sequence[RunFacts]) -> dict[str, list[object]]:
    """The options that all runs have and that are not the same in all, with each run's value."""
    options = [run.options for run in runs]
    keys = [key for key in options[0] if key not in WHERE and all(key in those for those in options)]
    values = {key: [those[key] for those in options] for key in keys}
    return {key: row for key, row in values.items() if len({str(value) for value in row if value != facts.UNUSED}) > 1}


def run_before(run: RunFacts) -> RunFacts | None:
    """The last run beside this one that finished before it, on the same data and labels; None where there is none."""
    mine = (run.folder / METRICS).stat().st_mtime_ns
    older = [
        (finished.stat().st_mtime_ns, finished.parent)
        for finished in run.folder.resolve().parent.glob(f"*/{METRICS}")
        if finished.stat().st_mtime_ns < mine
    ]
    for _, folder in sorted(older, reverse=True):
        try:
            other = facts.read_run(folder)
        except WordflockError:
            continue  # a damaged neighbour is not this run's problem
        if all(other.config.get(key) == run.config.get(key) for key in ("data", "keywords", "table")):
            return other
    return None


def comparison_rows(runs: Sequence[RunFacts]) -> list[list[str]]:
    """A table: a row a figure or differing option, the first cell its name, then a cell a run."""
    rows = [[key, *(str(value) for value in values)] for key, values in differing_options(runs).items()]
    for split in ("validation", "test"):
        scores = [run.metrics.get(split) for run in runs]
        rows.append([f"{split} accuracy", *(f"{100 * score['accuracy']:.1f}%" if score else "–" for score in scores)])
    rows.append(["parameters", *(f"{run.test['parameters']:,}" if run.test else "–" for run in runs)])
    once = [run.metrics.get("last_layer", {}) for run in runs]
    traffic = {
        "bytes a client and round": [run.metrics.get("bytes_per_client_per_round") for run in runs],
        "and for the last layer": [one["bytes_up"] + one["bytes_down"] if "bytes_up" in one else None for one in once],
    }
    for name, values in traffic.items():
        if any(values):
            rows.append([name, *(f"{value:,}" if value else "–" for value in values)])
    memory = [run.metrics.get("peak_memory") for run in runs]
    if any(memory):
        rows.append(["peak memory (MB)", *(f"{value / 1e6:,.0f}" if value else "–" for value in memory)])
    for stage in dict.fromkeys(stage for run in runs for stage in run.metrics.get("seconds", {})):
        seconds = [run.metrics.get("seconds", {}).get(stage) for run in runs]
        rows.append([f"{stage} (s)", *(f"{value:.1f}" if value is not None else "–" for value in seconds)])
    return rows


def in_words(found: Difference) -> str:
    """The difference as a sentence."""
    low, high = found.interval
    return (
        f"{found.run} against {found.against}: {100 * found.value:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}] "
        f"on {found.clips} shared test clips, McNemar p = {found.p:.3g}: {found.verdict}."
    )
