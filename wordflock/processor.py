"""What this machine's processor is called, and what it computes fast."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # those of x86; Arm's was not measured


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The board or the processor, as people call it."""
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        pass
    import platform

    names = [value for key, value in _cpuinfo() if key in ("model name", "Model")]
    return next(iter(names), "") or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def fastest_precision() -> str:
    """The numbers in which the encoder is fastest: "bfloat16" where the processor multiplies matrices of them.

    By the processor's kind and not by a measurement: machines of one kind must agree on a clip's features, busy or not.
    """
    flags = next((value.split() for key, value in _cpuinfo() if key == "flags"), [])
    return "float32" if BFLOAT16_FLAGS.isdisjoint(flags) else "bfloat16"


def _cpuinfo() -> list[tuple[str, str]]:
    """What Linux says of the processors, in its order; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
