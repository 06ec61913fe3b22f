"""Data sets: what a folder or archive of recordings holds, as a table of clips."""
