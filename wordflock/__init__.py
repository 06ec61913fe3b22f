"""Wordflock: teach devices to recognise spoken words from recordings that never leave them.

    import wordflock

    run = wordflock.train(data="recordings", epochs=20)
    print(run.score.accuracy)
    print(run.model("some.wav").label)

`train`, `simulate` and `evaluate` take the options of the commands of these names as keywords. What is here is imported
when it is first used: `import wordflock` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wordflock.quiet import hush

if TYPE_CHECKING:
    from wordflock.api import Run, evaluate, load, simulate, train
    from wordflock.errors import WordflockError, WordflockWarning
    from wordflock.head.metrics import Score
    from wordflock.spotting.detector import Detection, Detector
    from wordflock.spotting.predict import Model, Prediction

__version__ = "0.1.0"
hush()
__all__ = [
    "Detection",
    "Detector",
    "Model",
    "Prediction",
    "Run",
    "Score",
    "WordflockError",
    "WordflockWarning",
    "__version__",
    "evaluate",
    "load",
    "simulate",
    "train",
]
_MODULES = {
    "wordflock.api": ("Run", "evaluate", "load", "simulate", "train"),
    "wordflock.errors": ("WordflockError", "WordflockWarning"),
    "wordflock.head.metrics": ("Score",),
    "wordflock.spotting.detector": ("Detection", "Detector"),
    "wordflock.spotting.predict": ("Model", "Prediction"),
}


def __getattr__(name: str) -> Any:
    """Import one of the names above (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'wordflock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
