"""The folder of a run: one process at a time, inside --runs, for nobody else's eyes."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest
from killing import killed_at

from wordflock.errors import OptionError, WordflockError
from wordflock.federation_settings import FederationSettings, ServerSettings
from wordflock.files import LOCK, locked, write_atomically
from wordflock.run import open_run
from wordflock.runs import read_config, read_history, read_metrics, read_revisions, resumed
from wordflock.settings import TrainSettings


def train_settings(runs: Path, name: str = "run") -> TrainSettings:
    return TrainSettings(runs=str(runs), name=name)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/tmp/x", "..", ".", ".hidden", "a\nb", "a\0b", "tab\t", "\x1b[31m"], ids=ascii
)
@pytest.mark.parametrize("kind", [TrainSettings, FederationSettings, ServerSettings])
def test_a_name_is_not_a_path(name: str, kind: type[TrainSettings]) -> None:
    with pytest.raises(OptionError, match="is not a name"):
        kind(name=name)


def test_two_runs_of_one_name_at_once_do_not_mix(tmp_path: Path) -> None:
    with open_run(train_settings(tmp_path)) as run:
        before = (run.folder / "config.toml").read_bytes()
        other = TrainSettings(runs=str(tmp_path), name="run", seed=7)
        with (
            pytest.raises(WordflockError, match=r"run is in use by another process; .*--name"),
            open_run(other),
        ):
            pass
        assert (run.folder / "config.toml").read_bytes() == before
    with open_run(other):  # which left no head
        assert read_config(tmp_path / "run")["seed"] == 7


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path):
        pass


def test_what_a_killed_process_left_half_written_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "statistics").mkdir()
    path = tmp_path / "statistics" / "total"
    assert killed_at(1, tmp_path, lambda: write_atomically(path, b"secret"))  # as it forces it to the disk
    assert len(list(path.parent.iterdir())) == 1
    with locked(tmp_path):
        assert {file.name for file in tmp_path.rglob("*")} == {"statistics", LOCK}


def test_a_run_is_for_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    with open_run(train_settings(tmp_path)) as run:
        (run.folder / "statistics").mkdir(mode=0o700)
        write_atomically(run.folder / "statistics" / "total", b"")
    for path in (run.folder, *run.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_file_elsewhere_is_as_open_as_its_folder(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        for folder, expected in ((0o755, 0o644), (0o750, 0o640), (0o700, 0o600)):
            tmp_path.chmod(folder)
            write_atomically(tmp_path / "file", b"")
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == expected
    finally:
        os.umask(mask)


@pytest.mark.parametrize("line", [b'{"epoch": 2, "vali', b"\xff\xfe", b"[]", b"3", b'"text"'])
def test_a_damaged_history_is_named_with_its_line(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_bytes(b'{"epoch": 1, "validation_accuracy": 0.5}\n' + line)
    with pytest.raises(WordflockError, match=r"history.jsonl is damaged in line 2; delete that line and run again\.$"):
        read_history(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = ", b'name = "x'])
def test_a_config_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(WordflockError, match=f"^{tmp_path} is not a run "):
        read_config(tmp_path)


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    def resume(name: str) -> None:
        resumed(FederationSettings(runs=str(tmp_path), resume=name))

    with pytest.raises(WordflockError, match="--resume nothing is not a run"):
        resume("nothing")
    with open_run(train_settings(tmp_path)):
        pass
    with pytest.raises(WordflockError, match="is a run of `wordflock train`, not of simulate"):
        resume("run")
    with open_run(FederationSettings(runs=str(tmp_path), name="done")) as run:
        write_atomically(run.folder / "metrics.json", b"{}")
    with pytest.raises(WordflockError, match="done is done; its head is"):
        resume("done")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"test": 3}', b'{"test": {"accuracy": "x"}}', b"\xff\xfe", b"[" * 100_000, b"null"]
)
def test_metrics_and_revisions_that_are_damaged_are_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(WordflockError, match=r"metrics\.json is damaged \(.*\); restore it"):
        read_metrics(tmp_path)
    (tmp_path / "revisions.jsonl").write_bytes(b'{"forget": {"client": 1}}\n' + content + b"\n")
    with pytest.raises(WordflockError, match=r"revisions\.jsonl is damaged in line 2; restore it"):
        read_revisions(tmp_path)
    (tmp_path / "metrics.json").unlink()
    os.mkfifo(tmp_path / "metrics.json")
    with pytest.raises(WordflockError, match="it is not a file"):
        read_metrics(tmp_path)
