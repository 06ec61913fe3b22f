"""Experiment trackers: every epoch or round is logged when it is done. TensorBoard always, another one with --track.

What a tracker keeps stays on this machine, beside the runs, unless the environment names a server of the user's own
(MLFLOW_TRACKING_URI, TRACKIO_SERVER_URL, TRACKIO_SPACE_ID).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from wordflock.errors import WordflockError, WordflockWarning
from wordflock.options import Options
from wordflock.settings import HeadSettings

PROJECT = "wordflock"  # MLflow's experiment, Trackio's project


class Tracker(Protocol):
    """What keeps the figures of one run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep values by name, such as `validation/accuracy`, of an epoch or round."""

    def close(self, finished: bool) -> None:
        """Keep nothing more; tells whether the run came to its end."""


def open_trackers(folder: Path, settings: HeadSettings, *, going_on: bool) -> list[Tracker]:
    """The trackers of the run in a folder. Raises WordflockError where that of --track is missing or cannot start."""
    opened: list[Tracker] = [TensorBoard(folder)]
    if settings.track in KINDS:
        try:
            opened.append(_Forgiving(KINDS[settings.track](folder, settings, going_on), settings.track))
        except ModuleNotFoundError as error:
            raise WordflockError(
                f"--track {settings.track} needs {error.name}; pip install 'wordflock[{settings.track}]'."
            ) from error
        except Exception as error:  # of the tracker, its database or its network
            raise WordflockError(
                f"--track {settings.track} cannot start ({_reason(error)}); mend that or leave --track out."
            ) from error
    return opened


class TensorBoard:
    """TensorBoard's events in the run's folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder))
        for file in folder.glob("events.*"):
            file.chmod(0o600)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep values."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self, finished: bool) -> None:
        """Write what is not written yet."""
        self._events.close()


class MLflow:
    """A run of MLflow's experiment `wordflock`, in `mlflow.db` beside the runs or on a server of the user's own.

    https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html
    """

    def __init__(self, folder: Path, settings: Options, going_on: bool) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is said by us, in one sentence
        database = folder.resolve().parent / "mlflow.db"
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}"
        if address.endswith(str(database)):
            database.touch(0o600)
        self._client = MlflowClient(tracking_uri=address)
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        name = folder.resolve().name
        known = self._client.search_runs([experiment]) if going_on else []  # the newest first
        if earlier := [run.info.run_id for run in known if run.info.run_name == name]:
            self._run = earlier[0]
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        options = [Param(key, str(value)) for key, value in settings.as_config().items() if value != ""]
        self._client.log_batch(self._run, params=options)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep values."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self, finished: bool) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


class Trackio:
    """A run of Trackio's project `wordflock`, in `trackio/` beside the runs unless TRACKIO_DIR says otherwise.

    https://huggingface.co/docs/trackio/api
    """

    def __init__(self, folder: Path, settings: Options, going_on: bool) -> None:
        place = Path(os.environ.setdefault("TRACKIO_DIR", str(folder.resolve().parent / "trackio")))
        place.mkdir(0o700, parents=True, exist_ok=True)
        with _silenced():
            import trackio  # which reads TRACKIO_DIR

            options = {key: value for key, value in settings.as_config().items() if value != ""}
            self._finish = trackio.finish
            self._run: Any = trackio.init(
                project=PROJECT,
                name=folder.resolve().name,
                config=options,
                resume="allow" if going_on else "never",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep values."""
        self._run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        """Wait until all is kept."""
        with _silenced():
            self._finish()


KINDS: dict[str, Any] = {"mlflow": MLflow, "trackio": Trackio}


class _Forgiving:
    """A tracker that is warned about and left alone once it fails: a run does not end for it."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self._tracker, self._name, self._failed = tracker, name, False

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._tracker.log(values, step))

    def close(self, finished: bool) -> None:
        self._try(lambda: self._tracker.close(finished))

    def _try(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:
            self._failed = True
            warnings.warn(
                f"--track {self._name} failed ({_reason(error)}); the run goes on, and keeps its own history.",
                WordflockWarning,
                stacklevel=4,
            )


@contextmanager
def _silenced() -> Iterator[None]:
    """What a library prints is not the run's result."""
    with redirect_stdout(StringIO()):
        yield


def _reason(error: Exception) -> str:
    return (next(iter(str(error).splitlines()), "") or type(error).__name__).rstrip(".")
