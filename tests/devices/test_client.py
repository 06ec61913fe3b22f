"""What a client tells its user of Flower's log."""

from __future__ import annotations

import pytest

from wordflock.devices.client import SuperNodeLog

pytestmark = pytest.mark.usefixtures("printed")

WARNING, INFO = "\x1b[93mWARNING \x1b[0m:   ", "\x1b[92mINFO \x1b[0m:      "


def test_a_round_is_told_in_our_words(capsys: pytest.CaptureFixture[str]) -> None:
    story = SuperNodeLog("server:8000")
    for line in ("SuperNode ID: 5", "", "[RUN 7, ROUND 3]", "Receiving: train message (ID: f00)", "Sent successfully"):
        story.tell(INFO + line)
    assert capsys.readouterr().out == "connected to server:8000\nround 3: training\n"
    assert story.connected


def test_each_message_of_a_sum_has_words_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    story = SuperNodeLog("server:8000")
    for what in ("train.statistics", "train.masked"):
        story.tell(f"{INFO}Receiving: {what} message (ID: f00)")
    assert (
        capsys.readouterr().out
        == "computing statistics\nsecure aggregation, 3 of 4: training or computing statistics, and adding masks\n"
    )


def test_a_server_that_does_not_answer_is_told_of_once_and_since_when_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = SuperNodeLog("server:8000")
    for line in [f"{WARNING}Connection attempt failed, retrying in {seconds} seconds" for seconds in ("0.24", "6.69")]:
        story.tell(line)
    since = story.silent_since
    assert since is not None
    story.tell(f"{WARNING}Connection attempt failed, retrying in 9.9 seconds")
    assert story.silent_since == since
    story.tell(f"{INFO}Connection successful after 17.03 seconds and 4 tries.")
    assert story.silent_since is None
    assert capsys.readouterr().out == "server:8000 does not answer; trying again\nserver:8000 answers again\n"


def test_a_supernode_that_takes_its_time_is_no_server_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    story = SuperNodeLog("server:8000")
    story.tell("Connection attempt failed with exception: [Errno 111] Connection refused")  # as the SuperExec says it
    story.tell("Connection attempt failed, retrying in 16.88 seconds")
    story.tell("Connection successful after 20.1 seconds and 3 tries.")
    assert story.silent_since is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("why", "turned_away"),
    [
        ("Client error '401 Unauthorized' for url 'https://server:8000/v1/fleet/activate-node'", True),
        ("[code: 2001] SuperNode registration is disabled.", True),
        ("[code: 2004] Failed to activate SuperNode.", True),
        ("[code: 2003] The heartbeat interval is out of range.", False),
        ("Client error '404 Not Found' for url 'http://server:8000/v1/fleet/register-node'", False),
        ("Using SOCKS proxy, but the 'socksio' package is not installed.", False),
        ("[Errno 111] Connection refused", False),
    ],
)
def test_a_client_needs_a_key_only_where_the_server_said_so(why: str, turned_away: bool) -> None:
    log = SuperNodeLog("server:8000")
    log.tell("ERROR :     Failed to initialize the connection to the SuperLink.")
    log.tell(why)
    assert (log.turned_away, log.failure) == (turned_away, why)


def test_a_run_is_over_when_the_server_knows_that_it_was_heard(capsys: pytest.CaptureFixture[str]) -> None:
    story = SuperNodeLog("server:8000")
    heard = []
    for line in ("Receiving: train message", "Sent successfully", "Receiving: query.over message", "Sent successfully"):
        story.tell(f"{INFO}{line}")
        heard.append(story.is_over)
    assert heard == [False, False, False, True]
    assert capsys.readouterr().out == "training\nno more rounds come\n"


def test_a_client_is_told_why_it_is_turned_away(capsys: pytest.CaptureFixture[str]) -> None:
    story = SuperNodeLog("server:8000")
    for line in (f"{INFO}Receiving: query.turned_away message (ID: f00)", "TURNED AWAY: the number 0 is another's"):
        story.tell(line)
    assert story.unwanted == "the number 0 is another's"
    assert capsys.readouterr().out == "server:8000 takes nothing from this client: the number 0 is another's\n"
