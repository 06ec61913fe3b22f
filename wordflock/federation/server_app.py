"""What the server does: gather clients, play round after round, evaluate, keep."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation.costs import format_costs, sum_costs, sum_seconds
from wordflock.federation.last_layer import solve_last_layer
from wordflock.federation.liveness import alive, hold
from wordflock.federation.members import describe_devices, describe_members, server_side
from wordflock.federation.messages import Weights, pack_head
from wordflock.federation.presence import Presence
from wordflock.federation.private import Released
from wordflock.federation.roster import Roster
from wordflock.federation.rounds import Guard, Round, RoundResult, averaged_round, closed_form_result
from wordflock.federation.scoring import Scorer
from wordflock.federation.strategy import get_state, make_strategy, set_state
from wordflock.federation_settings import FederationSettings, ServerSettings
from wordflock.files import load_tensors, save_tensors
from wordflock.head.checkpoint import get_weights, load_checkpoint, set_weights
from wordflock.head.metrics import NO_SCORE, Score
from wordflock.head.torch_head import Head, count_parameters
from wordflock.head.training import evaluate_head
from wordflock.lifetime import Stages, peak_memory
from wordflock.partition import Member, federation
from wordflock.prepare import Prepared, resolved
from wordflock.privacy.accounting import Releases, rounds_report
from wordflock.privacy.mechanism import format_privacy
from wordflock.progress import print_line, progress, report, reporting
from wordflock.run import RunWriter, checkpoint_of, finish, new_head, open_run
from wordflock.runs import BEST
from wordflock.settings import CLOSED_FORM

FAREWELL = 10.0  # seconds that clients have to hear that the run is over

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run's configuration describes."""
    kind = ServerSettings if "min-clients" in context.run_config else FederationSettings
    settings = kind.from_config(context.run_config)
    if isinstance(settings, ServerSettings):
        hold(alive(Path(settings.runs) / settings.name))
    with reporting(print_line):  # Flower's process for the run has an output of its own
        try:
            federate(grid, settings)
            if isinstance(settings, ServerSettings) and not settings.keep_running:
                say_that_it_is_over(grid)
        except WordflockError as error:
            report(f"Error: {error}")
            raise


def federate(grid: Grid, settings: FederationSettings) -> Path:
    """Train a head over the grid's clients for the rounds; returns the run's folder.

    Every round's head is kept before the next begins, with the state of the strategy's optimizer; a run that is
    resumed goes on from there. Raises WordflockError where too few clients answer.
    """
    settings.check_together()
    logging.getLogger("flwr").setLevel(logging.WARNING)  # its line for every step would bury ours
    grid = cast(Grid, _Packing(grid)) if isinstance(settings, ServerSettings) else grid
    stages = Stages()
    members: list[Member] = []  # in a simulation
    if isinstance(settings, ServerSettings):
        prepared = server_side(settings)
    else:
        prepared, members = federation(settings).prepared, federation(settings).members
    settings = resolved(settings, prepared)
    stages.end("encode")
    with open_run(settings, going_on=bool(settings.resume)) as run:
        _train_rounds(run, grid, settings, prepared, members, stages)
    return run.folder


def _train_rounds(
    run: RunWriter,
    grid: Grid,
    settings: FederationSettings,
    prepared: Prepared,
    members: Sequence[Member],
    stages: Stages,
) -> None:
    """The rounds that are not done yet, and what is made of the best head."""
    devices = isinstance(settings, ServerSettings)
    head, validation = new_head(settings, prepared), prepared.features["validation"]
    strategy = make_strategy(settings)
    weights, done = _go_on(run, strategy, get_weights(head)) if settings.resume else (get_weights(head), -1)
    set_weights(head, weights)
    first, last = _numbers(settings, done)
    _tidy(run.folder, done, first if settings.resume else -1)
    report(f"head parameters = {count_parameters(head):,}")
    if done >= 0:
        report(f"going on after round {done}")
    elif len(validation):
        report(f"before training: {evaluate_head(head, validation, prepared.task.labels).summary}")

    roster = Roster(grid, settings, prepared, presence=Presence(run.folder if devices else None))
    scorer = Scorer(grid, roster, settings, head, validation)
    rounds = _Rounds(run, roster, scorer, head, strategy, weights)
    with progress("rounds", last, "rounds", relay=devices) as advance:
        advance(first - 1)
        if isinstance(settings, ServerSettings):
            roster.wait_for(settings.min_clients, settings.client_timeout)
        else:
            roster.wait_for(1, settings.round_timeout)
        for number in range(first, last + 1):
            score = rounds.play(number)
            advance(1, f"accuracy {score.accuracy:.4f}{f', {len(roster.connected)} connected' if devices else ''}")
    stages.end("rounds")
    metrics: dict[str, Any] = {"rounds": last}
    if settings.solves_last_layer:
        metrics["last_layer"] = solve_last_layer(grid, roster, settings, head, run, scorer)
        stages.end("last layer")
    metrics |= _sum_up(run, settings, scorer, members)
    stages.end("client scores")
    finish(run, "round", settings, prepared, {**stages.as_metrics(), **metrics})


def _numbers(settings: FederationSettings, done: int) -> tuple[int, int]:
    """The first and the last round to play: one in closed form is number 1 and the only one, or 0 before the others."""
    first = 1 if settings.closed_form or settings.init != CLOSED_FORM else 0
    return max(done + 1, first), settings.rounds


@dataclass
class _Rounds:
    """The rounds of a run, and what goes from one to the next."""

    run: RunWriter
    roster: Roster
    scorer: Scorer
    head: Head
    strategy: FedAvg
    weights: Weights

    def play(self, number: int) -> Score:
        """Play a round, keep its head, the strategy's state and a line of history, and say how it went."""
        started, settings = time.perf_counter(), self.roster.settings
        outcome = self._outcome(number)
        self.weights = outcome.weights
        score = outcome.score or self.scorer.score(number, self.weights) or NO_SCORE
        client_score = self.scorer.client_score(number, self.weights)
        set_weights(self.head, self.weights)
        checkpoint = checkpoint_of(self.head, settings, self.roster.prepared, round=number, score=score)
        _save_strategy(self.run.folder, self.strategy, number)
        line = _line(outcome, score, client_score, time.perf_counter() - started)
        devices = isinstance(settings, ServerSettings)
        line |= {"costs": outcome.costs} if devices else {"client_seconds": [c["seconds"] for c in outcome.costs]}
        best = self.run.record("round", checkpoint, **line)
        _tidy(self.run.folder, number, number + 1)
        eligible = f"of {len(self.roster.eligible())} " if devices else ""
        measured = f"accuracy = {score.accuracy:.4f}, loss = {score.loss:.4f}" if score.clips else "not measured"
        own = f"client accuracy = {client_score.accuracy:.4f}, " if client_score else ""
        report(
            f"round {number}: {measured}, {own}"
            f"{len(outcome.clients)} {eligible}clients, {line['seconds']:.1f} s{' (best)' if best else ''}"
        )
        return score

    def _outcome(self, number: int) -> RoundResult:
        grid, settings, folder = self.roster.grid, self.roster.settings, self.run.folder
        if settings.closed_form or number == 0:
            return closed_form_result(grid, self.roster, settings, self.head, folder)
        norms = [line["update_norm"] for line in self.run.history if line.get("update_norm")]
        guard = Guard(partial(self.scorer.score, number), self.run.best, norms)
        done = _releases(self.run)
        return averaged_round(
            Round(grid, self.roster, settings, self.strategy, number, self.weights, folder, done, guard)
        )


def say_that_it_is_over(grid: Grid) -> None:
    """Tell the clients that no more rounds come, so that they end; one that does not hear it waits for a server."""
    messages = [Message(RecordDict(), node, f"{MessageType.QUERY}.over", ttl=FAREWELL) for node in grid.get_node_ids()]
    list(grid.send_and_receive(messages, timeout=FAREWELL))


class _Packing:
    """A grid that sends heads packed, and so gets them back."""

    def __init__(self, grid: Grid) -> None:
        self._push = grid.push_messages
        self.pull_messages, self.get_node_ids = grid.pull_messages, grid.get_node_ids

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages on their way."""
        messages = list(messages)
        for message in messages:
            pack_head(message.content)
        return self._push(messages)


def _line(outcome: RoundResult, score: Score, client_score: Score | None, seconds: float) -> dict[str, Any]:
    """A round's line in the history, but for its number and the validation accuracy."""
    return {
        "train_loss": outcome.loss,
        "update_norm": outcome.update_norm,
        "validation_loss": score.loss,
        "client_accuracy": client_score.accuracy if client_score else None,
        "clients": outcome.clients,
        "bytes_up": outcome.bytes_up,
        "bytes_down": outcome.bytes_down,
        "seconds": seconds,
        "peak_memory": peak_memory(),
        **({"release": outcome.release} if outcome.release else {}),
        **({"privacy": outcome.privacy} if outcome.privacy else {}),
        **({"refused": outcome.problems} if outcome.problems else {}),
    }


def _releases(run: RunWriter) -> Releases:
    """What the private rounds of a run have released, whoever ran them."""
    releases = [line["release"] for line in run.history if "release" in line]
    return tuple((noise, drawn, among) for noise, drawn, among in releases)


def _sum_up(run: RunWriter, settings: FederationSettings, scorer: Scorer, members: Sequence[Member]) -> dict[str, Any]:
    """What metrics.json says of all rounds and of the clients, which score the best head on their holdout clips; prints
    the costs of real devices."""
    lines = run.history
    traffic = [line["bytes_up"] + line["bytes_down"] for line in lines if "bytes_up" in line]
    metrics: dict[str, Any] = {
        "bytes_per_client_per_round": sum(traffic) // max(1, len(traffic)),
        "refused": sum(len(line.get("refused", [])) for line in lines),
    }
    releases = _releases(run)
    solved = next((line["privacy"] for line in lines if "privacy" in line), None)
    if privacy := rounds_report(settings, releases) if releases else solved:
        report(format_privacy(privacy))
        metrics["privacy"] = privacy
    best = load_checkpoint(run.folder / BEST)
    if isinstance(settings, ServerSettings):
        costs = sum_costs(lines)
        report(format_costs(costs))
        metrics["clients"] = describe_devices(costs, scorer.final_scores(best.weights))
    elif settings.dp_epsilon is None:  # else they are more than was promised
        metrics["clients"] = describe_members(members, best, sum_seconds(lines))
    return metrics


def _go_on(
    run: RunWriter, strategy: FedAvg, untrained: dict[str, NDArray[np.float32]]
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """The head of the last finished round, and that round (-1: none); the strategy's optimizer is put back to it."""
    path = run.folder / "last.safetensors"
    if not path.exists():
        return untrained, -1
    last = load_checkpoint(path)
    done = int(last.training["round"])
    if _strategy_file(run.folder, done).exists():
        set_state(strategy, load_tensors(_strategy_file(run.folder, done))[0])
    # In the head's own order, in which FedAvgM has its momenta: files have the alphabet's.
    return {name: last.weights[name] for name in untrained}, done


def _strategy_file(folder: Path, number: int) -> Path:
    return folder / f"strategy-{number}.safetensors"


def _save_strategy(folder: Path, strategy: FedAvg, number: int) -> None:
    """Keep the optimizer's state of a round under its number: the checkpoint, written after it, says which counts."""
    if state := get_state(strategy):
        save_tensors(_strategy_file(folder, number), state, {"round": str(number)})


def _tidy(folder: Path, done: int, following: int) -> None:
    """Delete the optimizer's states of other rounds than the last one that is done, and what earlier ones released."""
    for path in folder.glob("strategy-*.safetensors"):
        if path != _strategy_file(folder, done):
            path.unlink()
    Released(folder, following).forget_others()
