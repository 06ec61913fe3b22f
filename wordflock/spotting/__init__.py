"""Use a head: predict words in clips."""
