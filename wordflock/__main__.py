"""`python -m wordflock`: the command line."""

from wordflock.cli import main

main()
