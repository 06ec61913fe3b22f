"""Whisper's frozen encoder: weights, backends, and the store of features."""
