"""wordflock prepare"""

from wordflock.cli import app
from wordflock.cli.options import command
from wordflock.settings import Settings


@command(app, "prepare")
def prepare(settings: Settings) -> None:
    """Encode a data set's clips, so that later runs find their features ready."""
    from wordflock.prepare import encode_all

    encode_all(settings)
