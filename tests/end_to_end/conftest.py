"""The folder that all whole commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_commands import WHOLE, WORDS, Wordflock, assert_done, write_encoder, write_rubbish


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "background(*commands): commands to run while the tests before go on")


@pytest.fixture(scope="session")
def wordflock(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Wordflock]:
    """Commands in a folder with the data set `words`, two encoders, and much rubbish."""
    folder = tmp_path_factory.mktemp("commands")
    write_encoder(folder / "encoder")
    write_encoder(folder / "another-encoder", seed=1)
    commands = Wordflock(folder)
    try:
        assert_done(commands.run(WORDS))
        write_rubbish(folder)
        marks = [mark for item in request.session.items for mark in item.iter_markers("background")]
        for command in dict.fromkeys(command for mark in reversed(marks) for command in reversed(mark.args)):
            commands.later(command)
        yield commands
    finally:
        commands.close()


@pytest.fixture(scope="session")
def whole(wordflock: Wordflock) -> Path:
    """A training of 60 epochs that nothing came in the way of."""
    assert_done(wordflock.answer(WHOLE))
    return wordflock.path("runs/whole")
