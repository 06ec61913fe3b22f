"""Every random choice, derived from the seed of the run and the place where it is made."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np


def numpy_generator(seed: int, *place: str | int) -> np.random.Generator:
    """A generator that depends on nothing but the seed and the place, for example ("round", 3, "client", 17)."""
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in place]
    entropy: Any = [seed, len(words), *words]  # with the length, because SeedSequence does not see zeros at the end
    if max(entropy) < 2**32:  # numpy would make this array itself, in twice the time of all the rest
        entropy = np.array(entropy, np.uint32)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
