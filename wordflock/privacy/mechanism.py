"""Differential privacy: how much noise, on what, and what it comes to.

A private solution in closed form has two releases: a rough centre of the clips, and the noisy statistics of
`PrivateStatistics` around it. All else (the repair of the Gram matrix, label weights, the solving) is made from them
alone, so it costs no privacy. Clips are not standardised by the clients' means and deviations, which would be a further
release, but each by its own: see NormalizedHead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import counted
from wordflock.head.closed_form import Solution
from wordflock.head.training import SHARPNESS
from wordflock.randomness import numpy_generator
from wordflock.settings import HeadSettings

Array = NDArray[np.float64]
CLIP = {
    "clip": 1.0,
    "client": 16.0,
}  # the norm that a unit's contribution is clipped to, where --dp-clipping-norm is not given
CROSS = 2.0  # how much more precisely the cross moments are released than the Gram matrix
CENTRE = 0.1  # of the budget goes into the centre: nine tenths of a clip's square norm are common to all clips
SPREAD = 0.3  # about as far are clips from it; they are divided by it, so that again their norm is about one
COUNTS = 0.5  # and the counts
STEPS = 1e-9  # of the search for a noise


def gaussian_noise(epsilon: float, delta: float) -> float:
    """The least standard deviation of Gaussian noise that makes a sum of sensitivity 1 (ε, δ)-private.

    The analytic Gaussian mechanism: Balle & Wang 2018 (arXiv 1805.06530), theorem 8. Exact for every ε, where the
    classic √(2 ln(1.25/δ))/ε holds below ε = 1 only, and is up to twice as much.
    """
    from scipy.optimize import brentq

    if math.isinf(epsilon):
        return 0.0
    high = 1.0
    while gaussian_delta(epsilon, high) > delta:
        high *= 2
    low = high
    while gaussian_delta(epsilon, low) <= delta:
        low /= 2
    # The usual 100 steps are too few for an ε of 10³⁰⁸, whose noise is 150 orders of magnitude below the beginning.
    asked = {"xtol": STEPS * low, "maxiter": 10_000}
    found = float(brentq(lambda noise: gaussian_delta(epsilon, noise) - delta, low, high, **asked))
    return found * (1 + 2 * STEPS)  # never on the wrong side of the root


def gaussian_delta(epsilon: float, noise: float) -> float:
    """The δ of Gaussian noise on a sum of sensitivity 1: Φ(1/2σ - εσ) - exp(ε) Φ(-1/2σ - εσ)."""
    from scipy.special import log_ndtr

    near, far = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
    return float(np.exp(log_ndtr(near)) - np.exp(epsilon + log_ndtr(far)))


@dataclass(frozen=True)
class PrivateStatistics:
    """The mechanism: what a client contributes, the noise on the total, and the layer that comes of it.

    A clip's representation z is projected to x by a public random matrix. First the mean of x is released, roughly: of
    each client one vector (by clip its sum, whose terms are clipped to norm 1; by client its mean, clipped to norm 1).
    Then x is taken from that centre, divided by SPREAD and clipped to norm R, and released is the joint vector of
    G = Σ x xᵀ, C = Σ x yᵀ and n = Σ y (y: the label as a unit vector), written as
    v = (the diagonal of G, √2 times its upper triangle, α C, β R² n), so that |v| is taken once for all three.

    Unit clip, R = --dp-clipping-norm. One clip more or less changes v by (x xᵀ, α R x yᵀ, β R² y) in this notation;
    its square norm is |x|⁴ + α² R² |x|² + β² R⁴, for the Frobenius norm of x xᵀ is |x|². So the sensitivity is
    R² √(1 + α² + β²). (A clip replaced by another counts as one less and one more.)

    Unit client, R = 1. A client's whole v is scaled down to norm S = --dp-clipping-norm where it is longer: the
    sensitivity of one client more or less is S, whatever its clips are.

    √2 off the diagonal is what makes the norm exact; the noise there, seen from G, is √2 smaller, and the noisy G
    stays symmetric because only the triangle has noise.

    Two Gaussian releases with noise s₁ and s₂, in sensitivities, are as private as one with 1/s² = 1/s₁² + 1/s₂², even
    where the second is made with what the first gave (Dong, Roth & Su 2019, arXiv 1905.02383, corollary 3.3).
    """

    size: int  # of z
    labels: int
    epsilon: float  # inf: no noise
    delta: float
    unit: str
    clip: float
    dimensions: int
    seed: int  # of the projection, which everyone may know; never of the noise
    centre: Array | None = None  # (dimensions,), once it is known

    @classmethod
    def of(cls, settings: HeadSettings, size: int, labels: int) -> PrivateStatistics:
        """The mechanism that the settings ask for."""
        assert settings.dp_epsilon is not None
        unit = settings.dp_unit
        return cls(
            size,
            labels,
            settings.dp_epsilon,
            settings.dp_delta,
            unit,
            settings.dp_clipping_norm or CLIP[unit],
            min(size, settings.dp_dimensions),
            settings.seed,
        )

    @property
    def length(self) -> int:
        """The numbers in v."""
        return self.dimensions * (self.dimensions + 1) // 2 + (self.dimensions + 1) * self.labels

    @property
    def radius(self) -> float:
        """R, which every x is clipped to."""
        return self.clip if self.unit == "clip" else 1.0

    @property
    def sensitivity(self) -> float:
        """What one unit can change v by."""
        if self.unit == "client":
            return self.clip
        return float(self.clip**2 * math.sqrt(1 + CROSS**2 + COUNTS**2))

    @property
    def noise(self) -> float:
        """The standard deviation of the noise on every number of v."""
        return gaussian_noise(self.epsilon, self.delta) / math.sqrt(1 - CENTRE) * self.sensitivity

    @property
    def noise_of_centre(self) -> float:
        """The same for the sum of the parts of the centre, which one unit can change by 1."""
        return gaussian_noise(self.epsilon, self.delta) / math.sqrt(CENTRE)

    def middle(self, z: NDArray[np.float32]) -> Array:
        """One client's part of the centre, shape (dimensions,)."""
        x = _within(z.astype(np.float64) @ self._projection(), 1.0)
        return np.asarray(x.sum(axis=0) if self.unit == "clip" else x.mean(axis=0))

    def centred(self, total: Array, units: int, generator: np.random.Generator | None = None) -> PrivateStatistics:
        """The mechanism with the centre that the parts of so many clips, or clients, make, and noise: one release."""
        drawn = (generator or np.random.default_rng()).normal(size=self.dimensions)
        return replace(self, centre=(total + self.noise_of_centre * drawn) / units)

    def bounded_middle(self, total: Array) -> Array:
        """A client's part of the centre, scaled down to norm 1 where the unit is the client."""
        return total if self.unit == "clip" else np.asarray(_within(total[None], 1.0)[0])

    def contribution(self, z: NDArray[np.float32], labels: NDArray[np.int64]) -> Array:
        """v of one client's clips: representations of shape (clips, size), and their labels."""
        x = z.astype(np.float64) @ self._projection()
        if self.centre is not None:
            x = (x - self.centre) / SPREAD
        x = _within(x, self.radius)
        y = np.eye(self.labels)[labels]
        gram = x.T @ x
        gram[np.triu_indices(self.dimensions, 1)] *= math.sqrt(2)
        rows = np.triu_indices(self.dimensions)
        cross = CROSS * self.radius * (x.T @ y)
        v = np.concatenate([gram[rows], cross.ravel(), COUNTS * self.radius**2 * y.sum(axis=0)])
        return self.bounded(v)

    def bounded(self, v: Array) -> Array:
        """A client's v, scaled down to the clipping norm where the unit is the client."""
        if self.unit == "clip":
            return v
        return np.asarray(_within(v[None], self.clip)[0])

    def noisy(self, total: Array, generator: np.random.Generator | None = None) -> Array:
        """The total with its noise: the one release.

        Noise comes from the operating system's randomness, for from the run's seed anybody could take it off again.
        """
        return total + self.noise * (generator or np.random.default_rng()).normal(size=self.length)

    def solve(self, released: Array) -> Solution:
        """The linear discriminants of labels that are alike likely (Fisher 1936), from the noisy v, as a layer for z.

        All that they need is in v: the labels' means and the scatter within labels. The scatter's eigenvalues below
        zero, which no sum of squares has, are raised to zero, and all of them by the norm of the noise on G, which
        hides what is smaller: √(2d) σ for symmetric noise of deviation σ on the diagonal and σ/√2 off it (Wigner).
        """
        d, noise = self.dimensions, self.noise
        corner = d * (d + 1) // 2
        gram = np.zeros((d, d))
        gram[np.triu_indices(d)] = released[:corner]
        gram[np.triu_indices(d, 1)] /= math.sqrt(2)
        gram += np.triu(gram, 1).T
        alpha, beta = CROSS * self.radius, COUNTS * self.radius**2
        cross = released[corner : corner + d * self.labels].reshape(d, self.labels) / alpha
        counts = np.maximum(released[-self.labels :] / beta, 1.0)
        means = cross / counts
        # What the noise adds to the scatter of the means on average is taken off again.
        within = gram - means @ cross.T + np.eye(d) * (noise / alpha) ** 2 * float((1 / counts).sum())
        values, vectors = np.linalg.eigh((within + within.T) / 2)
        values = np.maximum(values, 0.0)
        ridge = math.sqrt(2 * d) * noise + 1e-3 * float(values.mean())
        spread = (vectors * ((values + ridge) / float(counts.sum()))) @ vectors.T
        weight = np.linalg.solve(spread, means) / SHARPNESS
        bias = -0.5 * (means * weight).sum(axis=0)
        if self.centre is not None:
            weight = weight / SPREAD
            bias = bias - self.centre @ weight
        return Solution((self._projection() @ weight).T.copy(), bias, (ridge,), math.nan)

    def report(self, noise_by: str) -> dict[str, Any]:
        """What was promised, for metrics.json."""
        return {
            "epsilon": None if math.isinf(self.epsilon) else self.epsilon,
            "delta": self.delta,
            "unit": self.unit,
            "clip": self.clip,
            "dimensions": self.dimensions,
            "noise": self.noise,
            "releases": 2,
            "accountant": "analytic Gaussian mechanism (arXiv 1805.06530)",
            "noise_by": noise_by,
            "assumptions": [
                f"neighbours differ by one {self.unit} added or removed",
                "the server keeps the statistics it got to itself"
                if noise_by == "server"
                else "clients clip and add noise",
                "who took part, and the clips that each said it has, are not protected",
                "settings were not chosen by looking at these clips",
                "noise is in float64 (see Mironov 2012 for what an attack on its last bits would need)",
            ],
        }

    def _projection(self) -> Array:
        """(size, d), with orthonormal columns scaled so that the norm of z stays about what it was."""
        return _orthonormal(self.seed, self.size, self.dimensions) * math.sqrt(self.size / self.dimensions)


@lru_cache(maxsize=2)  # all clients of a simulation ask for the same
def _orthonormal(seed: int, size: int, dimensions: int) -> Array:
    generator = numpy_generator(seed, "private projection", size, dimensions)
    q, _ = np.linalg.qr(generator.normal(size=(size, dimensions)))
    return np.asarray(q)


def _within(rows: Array, norm: float) -> Array:
    """The rows of a matrix, scaled down to a norm where they are longer."""
    return np.asarray(rows * np.minimum(1.0, norm / np.maximum(np.linalg.norm(rows, axis=1), 1e-12))[:, None])


def format_privacy(report: dict[str, Any]) -> str:
    """The line that a run prints."""
    if report["epsilon"] is None:
        return f"privacy: none (epsilon is infinite; contributions of a {report['unit']} are clipped all the same)"
    return (
        f"privacy: ({report['epsilon']:.4g}, {report['delta']:.1g})-differentially private by {report['unit']}, "
        f"{report['accountant']}, {counted(report['releases'], 'release')}, "
        f"noise by the {report['noise_by']}"
    )
