"""The head: kinds, training, closed form, calibration, checkpoints."""
