"""Every random choice, derived from the seed of the run and the place where it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    import torch


def numpy_generator(seed: int, *place: str | int) -> np.random.Generator:
    """A generator that depends on nothing but the seed and the place, for example ("round", 3, "client", 17)."""
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in place]
    # The length stands in front because SeedSequence does not see zeros at the end.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, len(words), *words])))


def torch_generator(seed: int, *place: str | int) -> torch.Generator:
    """The same for torch, on the CPU."""
    import torch

    generator = torch.Generator()
    generator.manual_seed(int(numpy_generator(seed, *place).integers(2**63)))
    return generator
