"""What this machine's processor is called, and what it computes in."""

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
def computes_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16, and need not imitate it."""
    flags = next((value.split() for key, value in _cpuinfo() if key == "flags"), [])
    return not BFLOAT16_FLAGS.isdisjoint(flags)


def _cpuinfo() -> list[tuple[str, str]]:
    """What Linux says of the processors, in its order; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
