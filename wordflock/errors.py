"""What Wordflock raises and warns with."""


class WordflockError(Exception):
    """A mistake the user can mend; the message is one sentence: the thing, its value, the remedy.

    The command line shows it without a traceback and exits with status 2.
    """


class WordflockWarning(UserWarning):
    """Something was left out or assumed, and the work goes on; shown once, on standard error."""
