"""What a reader wants to know of a run before any figure: accuracy, what it was made from, what was not measured."""

from __future__ import annotations

from pathlib import Path

from wordflock.errors import counted
from wordflock.options import split_lines
from wordflock.report import facts
from wordflock.report.facts import RunFacts


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def data_name(run: RunFacts) -> str:
    """The data set's name, without the folders of the machine that it is on: pages and cards are shared."""
    sources = split_lines(str(run.config.get("data") or "the recordings of its clients"))
    return ", ".join(Path(source).name for source in sources)


def headline(run: RunFacts) -> list[tuple[str, str]]:
    """The figures on top of the page."""
    lines = []
    if test := run.test:
        low, high = accuracy_interval(run)
        lines.append(("Test accuracy", f"{percent(test['accuracy'])} [{percent(low)}, {percent(high)}]"))
        if test.get("threshold"):
            lines.append(("with rejection", percent(test["accuracy_with_rejection"])))
        lines.append(("test clips", f"{test['clips']:,}"))
        lines.append(("parameters", f"{test['parameters']:,}"))
    if speakers := facts.by_speaker(run.predictions):
        lines.append(("worst tenth of speakers", percent(facts.quantiles(speakers)["worst tenth"])))
    return lines


def accuracy_interval(run: RunFacts) -> tuple[float, float]:
    """The 95% interval of the test accuracy: by a bootstrap over speakers where they are known, else Wilson's."""
    groups = [[float(row.correct) for row in run.predictions if row.speaker == name] for name in _speakers(run)]
    if len(groups) > 1:
        return facts.bootstrap(groups)
    low, high = run.metrics["test"]["interval"]
    return float(low), float(high)


def _speakers(run: RunFacts) -> list[str]:
    return sorted({row.speaker for row in run.predictions if row.speaker})


def guarantees(run: RunFacts) -> list[str]:
    """What was trained on what, and with which guarantees."""
    config, where = run.config, {"train": "on one machine", "simulate": "in simulation", "server": "on devices"}
    lines = [f"Trained {where.get(run.mode, run.mode)} on {data_name(run)}."]
    lines.append(
        f"Encoder {config.get('encoder')}, window {config.get('window')} s, layer {config.get('layer')}, "
        f"head {config.get('head')}, strategy {config.get('strategy')}, seed {config.get('seed')}."
    )
    if run.mode != "train":
        rounds = len(run.history)
        came = {client for line in run.history for client in line.get("clients", ())}
        clients = len(run.clients) or (len(came) if run.mode == "server" else int(config.get("clients", len(came))))
        lines.append(f"{counted(clients, 'client')}, {counted(rounds, 'round')}.")
        secure = config.get("secure-aggregation")
        lines.append(
            "Secure aggregation: the server learned totals only."
            if secure
            else "Without secure aggregation: the server saw what each client sent."
        )
    if privacy := run.metrics.get("privacy"):
        epsilon = privacy.get("epsilon")
        bound = f"ε = {epsilon:.3g}, δ = {privacy['delta']:.1g}" if epsilon is not None else "clipping without noise"
        lines.append(f"Differential privacy by {privacy['unit']}: {bound} ({privacy['accountant']}).")
    else:
        lines.append("Without differential privacy.")
    return lines


def unmeasured(run: RunFacts) -> list[str]:
    """What a reader might expect and the run does not have."""
    missing = []
    if run.test is None:
        missing.append("accuracy on test clips (the run has none)")
    elif not run.predictions:
        missing.append("figures by speaker and single mistakes (the run kept no predictions)")
    clients = facts.by_client(run)
    if run.mode != "train" and not clients:
        missing.append("accuracy by client (no client kept clips for evaluation where the report could see them)")
    if silent := sum(not client.recall for client in clients):
        missing.append(
            f"recall by label of {silent} of {len(clients)} clients (with secure aggregation they do not report it)"
        )
    if "streams" not in run.metrics:
        missing.append("false alarms per hour (see wordflock evaluate-stream)")
    return missing
