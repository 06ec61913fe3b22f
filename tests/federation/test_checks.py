"""What is asked of statistics holds for any clips, also where their sums travel as fixed-point numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock.federation.checks import check_scale_statistics
from wordflock.federation.secure.masking import STEP, from_fixed_point, to_fixed_point
from wordflock.federation.wire import MalformedMessage
from wordflock.head.closed_form import ScaleStatistics


def fixed_total(clients: list[ScaleStatistics]) -> ScaleStatistics:
    """The total as secure aggregation gives it."""
    packed = [{name: to_fixed_point(a, len(clients)) for name, a in one.packed().items()} for one in clients]
    return ScaleStatistics(
        **{name: from_fixed_point(np.sum([one[name] for one in packed], axis=0)) for name in packed[0]}
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(1e-9, 1e3),
    spread=st.sampled_from((0.0, 1e-6, 1.0)),
    clients=st.integers(3, 40),
)
def test_clips_whose_features_hardly_differ_are_not_called_a_lie(seed, size, spread, clients):
    generator = np.random.default_rng(seed)
    same = size * generator.normal(size=12)
    clips = [(same + size * spread * generator.normal(size=(5, 12))).astype(np.float32) for _ in range(clients)]
    total = fixed_total([ScaleStatistics.of(one, np.array([0, 1, 0, 1, 1]), 2) for one in clips])
    rounding = STEP / 2 * clients
    check_scale_statistics(total, 5 * clients, rounding)
    if spread == 0.0 and size >= 0.1:  # else sums are smaller than their squares allow, or no more than rounding
        longer = ScaleStatistics(total.counts, total.total * 1.01, total.squares)
        with pytest.raises(MalformedMessage, match="larger than their squares allow"):
            check_scale_statistics(longer, 5 * clients, rounding)
