"""Commands that use a head: score it, or have it say words."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from wordflock.cli.options import command, refuse_options, whole_number
from wordflock.settings import EvaluateSettings

FAILED = 1  # exit status where some recordings could not be read
ModelName = Annotated[
    str, Parameter(name="MODEL", help="Checkpoint, run (its folder, or its name below runs/), or Hub repository.")
]
Files = Annotated[
    list[str],
    Parameter(
        name="FILES",
        help="Audio files of one word each, folders of them, or - for standard input.",
        allow_leading_hyphen=True,  # for -
    ),
]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())]


@command
def evaluate(model: ModelName, /, settings: EvaluateSettings, *, as_json: AsJson = False) -> None:
    """Score a head on a split of a data set: without --data, the one it was trained with."""
    from wordflock.spotting.evaluate import evaluate

    evaluation = evaluate(model, settings)
    print(json.dumps(evaluation.as_json()) if as_json else evaluation)


@command
def predict(
    model: ModelName,
    files: Files,
    /,
    *,
    encoder: Annotated[str, Parameter(help="Where to find the head's encoder, if not where it was in training.")] = "",
    threshold: Annotated[
        float | None,
        Parameter(
            help="Probability, against _unknown_ alone, below which a keyword is _unknown_. (default: the checkpoint's)"
        ),
    ] = None,
    top: Annotated[int, Parameter(help="Print the K most probable labels as well.", converter=whole_number)] = 0,
    raw: Annotated[
        int | None,
        Parameter(help="Standard input is raw 16-bit mono samples at this rate, Hz.", converter=whole_number),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which word each recording holds: one line each, with the label and its confidence."""
    from wordflock.errors import OptionError, WordflockError
    from wordflock.spotting.predict import load, predict_files

    refuse_options(files)
    if top < 0:
        raise OptionError("top", top, "is too small; the minimum is 0")
    failed = False
    for name, answer in predict_files(load(model, encoder=encoder, threshold=threshold), files, sys.stdin.buffer, raw):
        if isinstance(answer, WordflockError):
            failed = True
            print(f"Error: {answer}", file=sys.stderr)
            continue
        ranked = dict(list(answer.probabilities.items())[: top or None])
        if as_json:
            print(json.dumps({"file": name, **asdict(answer), "probabilities": ranked}))
        else:
            rest = "".join(f"\t{label} {probability:.4f}" for label, probability in ranked.items() if top)
            print(f"{name}\t{answer.label}\t{answer.confidence:.4f}{rest}")
    if failed:
        raise SystemExit(FAILED)
