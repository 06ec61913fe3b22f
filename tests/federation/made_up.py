"""What made-up federations have in common."""

from wordflock.encoder.spec import FeatureSpec

LABELS = ["yes", "no", "_silence_", "_unknown_"]
SPEC = FeatureSpec("none", "0" * 64, 0.2, "last")
FRAMES, WIDTH, HELD_BACK = SPEC.frames, 8, 4
