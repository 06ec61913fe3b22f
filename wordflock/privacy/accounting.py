"""The privacy of rounds: how much noise they need, and what they have spent."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from wordflock.settings import HeadSettings

Rounds = tuple[tuple[int, int], ...]  # the clients drawn, and those drawn from, round by round
Releases = tuple[tuple[float, int, int], ...]  # the same of rounds that are done, with the noise multiplier of each
ROUNDS_CLIP = 1.0  # the norm that an update of a head is clipped to, where --dp-clipping-norm is not given


def next_noise(epsilon: float, delta: float, draw: tuple[int, int], left: int, done: Releases) -> float:
    """The noise multiplier of the next of `left` rounds, if they all draw as many clients as it, from as many.

    Where that turns out otherwise, the rounds after it get more noise or less: (ε, δ) hold for all of them together.
    """
    if done and done[-1][1:] == draw:
        return done[-1][0]  # all is as it was planned
    return rounds_noise(epsilon, delta, (draw,) * left, done)


def rounds_noise(epsilon: float, delta: float, rounds: Rounds, done: Releases = ()) -> float:
    """The noise multiplier (noise on the sum of updates, in clipping norms) of `rounds` to come.

    It is what makes them, with those that are done, (ε, δ)-private.
    """
    from scipy.optimize import brentq

    if math.isinf(epsilon):
        return 0.0
    high = 1.0
    while rounds_epsilon(high, delta, rounds, done) > epsilon:
        high *= 2
    low = high
    while rounds_epsilon(low, delta, rounds, done) <= epsilon:
        low /= 2
    found = float(
        brentq(lambda noise: rounds_epsilon(noise, delta, rounds, done) - epsilon, low, high, xtol=1e-2 * low)
    )
    return found * 1.02  # never on the wrong side of the root


def rounds_epsilon(noise: float, delta: float, rounds: Rounds, done: Releases = ()) -> float:
    """The ε of rounds with a noise multiplier, and of those that are done with theirs.

    By Rényi differential privacy (Google's dp-accounting).

    Every round draws a fixed number of clients without replacement, for which amplification is known for neighbours in
    which one client is replaced by another (Wang, Balle & Kasiviswanathan 2019, arXiv 1808.00087). Poisson sampling's
    smaller ε would not be true of rounds like these. A client replaced moves the sum by two clipping norms.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    releases = Counter([*done, *((noise, drawn, population) for drawn, population in rounds)])
    for (multiplier, drawn, population), times in releases.items():
        release = dp_accounting.GaussianDpEvent(multiplier / 2)
        event = dp_accounting.SampledWithoutReplacementDpEvent(population, drawn, release)
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, times))
    return float(accountant.get_epsilon(delta))


def rounds_clip(settings: HeadSettings) -> float:
    """The norm that a client's update of the head is clipped to."""
    return settings.dp_clipping_norm or ROUNDS_CLIP


def rounds_report(settings: HeadSettings, done: Releases) -> dict[str, Any]:
    """What was promised of rounds, and spent in fact, for metrics.json."""
    noise = min(multiplier for multiplier, _, _ in done)
    return {
        "epsilon": rounds_epsilon(0.0, settings.dp_delta, (), done) if noise else None,
        "delta": settings.dp_delta,
        "unit": "client",
        "clip": rounds_clip(settings),
        "noise_multiplier": noise,
        "releases": len(done),
        "accountant": "Renyi, sampling without replacement (arXiv 1808.00087, dp-accounting)",
        "noise_by": "server",
        "assumptions": [
            "neighbours differ by one client replaced by another",
            "each round draws a fixed number of clients, uniformly, and nobody outside learns whom",
            "the server keeps the heads it got to itself",
            "settings were not chosen by looking at these clips",
        ],
    }
