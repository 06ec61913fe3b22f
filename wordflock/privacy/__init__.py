"""Differential privacy: mechanism and accounting."""
