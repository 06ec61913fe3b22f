"""Sound: read files, spectrograms, augmentations."""
