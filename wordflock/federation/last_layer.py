"""After the rounds: the last layer solved in closed form over all clients, so that rounds are no worse than one round.

Averaged rounds forget words that few clients have. What the layers below have learned is worth keeping, and the best
last layer on top of them follows from statistics of all clients, as in the round in closed form.
"""

from __future__ import annotations

from typing import Any

from flwr.serverapp import Grid

from wordflock.errors import WordflockError, counted
from wordflock.federation.closed_form_round import closed_form_round
from wordflock.federation.roster import Roster
from wordflock.federation.scoring import Scorer
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import get_weights
from wordflock.head.metrics import NO_SCORE
from wordflock.head.torch_head import Head
from wordflock.head.training import load_solution
from wordflock.progress import report
from wordflock.run import RunWriter, checkpoint_of


def solve_last_layer(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    head: Head,
    run: RunWriter,
    scorer: Scorer,
) -> dict[str, Any]:
    """Solve the last layer of the head of the last round, which becomes the run's best head unless it scores lower
    (`RunWriter.keep_solved`).

    Where the statistics cannot be solved, the heads of the rounds stay, and a line says why. Returns what metrics.json
    says of it.
    """
    try:
        roster.refresh()
        solved = closed_form_round(grid, roster, settings, head, bounded=True)
    except WordflockError as error:
        report(f"the last layer stays as the rounds averaged it: {error}")
        return {"kept": False, "problem": str(error)}
    load_solution(head, solved.solution)
    scored = scorer.score(settings.rounds + 1, get_weights(head)) or NO_SCORE
    solution = checkpoint_of(head, settings, roster.prepared, score=scored, round=settings.rounds)
    kept = run.keep_solved(solution, scored)
    megabytes = max(cost["bytes_up"] for cost in solved.costs) / 1e6
    report(
        f"last layer solved from the statistics of {counted(len(solved.costs), 'client')}, {megabytes:.1f} MB each: "
        f"{scored.summary}{' (best)' if kept else ''}"
    )
    return {
        "kept": kept,
        "validation_accuracy": scored.accuracy if scored.clips else None,
        "ridges": solved.solution.ridges,
        "clients": len(solved.costs),
        "bytes_up": max(cost["bytes_up"] for cost in solved.costs),
        "bytes_down": max(cost["bytes_down"] for cost in solved.costs),
        "refused": solved.problems,
    }
