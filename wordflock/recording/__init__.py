"""Recording words: takes are checked, trimmed and kept under names that say the word and the speaker."""
