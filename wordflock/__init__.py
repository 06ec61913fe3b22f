"""Wordflock: teach devices to recognise spoken words from recordings that never leave them."""

__version__ = "0.1.0"
