"""Commands that train a head, revise it, or list what was trained."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from wordflock.cli.options import command
from wordflock.errors import counted
from wordflock.federation_settings import FederationSettings
from wordflock.options import split_commas
from wordflock.settings import DataSettings, Settings, TrainSettings

RunFolder = Annotated[str, Parameter(help="Run with --strategy closed-form: its folder, or its name below runs/.")]


@command
def train(settings: TrainSettings) -> None:
    """Train a head with all clips on one machine."""
    from wordflock.centralized import train

    train(settings)


@command
def simulate(settings: FederationSettings) -> None:
    """Train a head over simulated clients, each with its own clips, in this process."""
    from wordflock.federation.simulation import simulate

    simulate(settings)


@command
def prepare(settings: Settings) -> None:
    """Encode a data set's clips, so that later runs find their features ready."""
    from wordflock.prepare import encode_all

    features = encode_all(settings)
    array = features[0].array
    print(
        f"{counted(sum(map(len, features)), 'clip')} ready: {array.shape[1]} frames of width {array.shape[2]}, "
        f"{array.nbytes / 1e6:.0f} MB"
    )


@command
def forget(
    run: RunFolder,
    /,
    *,
    client: Annotated[int | None, Parameter(help="Client to forget, by its number.")] = None,
    speaker: Annotated[str, Parameter(help="Speaker to forget.")] = "",
    label: Annotated[str, Parameter(help="Label to forget.")] = "",
) -> None:
    """Remove a client, a speaker or a label from a head (unlearning); no other client is asked for anything."""
    from wordflock.revise.forget import forget
    from wordflock.runs import find_run

    folder = find_run(run)
    clips = forget(folder, client=client, speaker=speaker, label=label)
    print(f"forgotten: {counted(clips, 'clip')}; {folder}/best.safetensors is the head without them")


@command
def learn(
    run: RunFolder,
    /,
    settings: DataSettings,
    *,
    words: Annotated[str, Parameter(help="New words among the clips, separated by commas.")] = "",
) -> None:
    """Add the training clips of a data set to a head, and new words to its labels; nothing else is trained again."""
    from wordflock.revise.learn import learn
    from wordflock.runs import find_run

    folder = find_run(run)
    clips = learn(folder, settings, split_commas(words))
    print(f"learned: {counted(clips, 'clip')}; {folder}/best.safetensors is the head with them")
