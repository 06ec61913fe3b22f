"""Upload to a server on this machine that speaks the Hub's API, and read the head back from it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_on_this_machine import COMMIT, HubHandler, HubServer, in_place_of_the_hub
from report_runs import LABELS, write_run

import wordflock
from wordflock.cli.commands import run as run_command
from wordflock.encoder.spec import feature_spec
from wordflock.errors import WordflockError
from wordflock.head.checkpoint import Checkpoint, get_weights, save_checkpoint
from wordflock.head.torch_head import build_head
from wordflock.report.facts import read_run
from wordflock.report.hub import push
from wordflock.report.model_card import write_card
from wordflock.spotting import hub as loading

TOKEN = "hf_of_a_test"


class Hub(HubServer):
    """Holds the files of one repository."""

    created: list[dict[str, object]]
    claims: dict[str, str]  # what it says of a file, whether or not it is so
    tampered = False


class Handler(HubHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            return self.answer(200, {"url": f"{self.server.address}/ada/words", "id": "ada/words"})
        if self.path.startswith("/api/models/ada/words/preupload/"):
            named = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named]
            return self.answer(200, {"files": files})
        if self.path.startswith("/api/models/ada/words/commit/"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.answer(
                200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.address}/ada/words/commit/0"}
            )
        return self.answer(200, {})

    def do_GET(self) -> None:
        repository, _, place = self.path[1:].partition("/resolve/")
        name = place.partition("/")[2]
        if repository != "ada/words":
            self.answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        content = self.server.files.get(name)
        if content is None:
            self.answer(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        about = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, **self.server.claims}
        self.answer(200, content[::-1] if self.server.tampered else content, about)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with in_place_of_the_hub(Hub(("127.0.0.1", 0), Handler), monkeypatch) as server:
        server.created, server.claims = [], {}
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run")
    (folder / "best.safetensors").write_bytes(b"weights")
    write_card(read_run(folder), folder)
    return folder


def test_only_what_others_need_is_uploaded(hub: Hub, run: Path) -> None:
    assert push(run, "ada/words", private=True).endswith("/ada/words")
    assert hub.files == {name: (run / name).read_bytes() for name in ("README.md", "labels.txt", "best.safetensors")}
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    assert not any(b"/home/ada" in content for content in hub.files.values())


def test_a_refusal_is_one_sentence(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(WordflockError, match=r"did not take ada/words \(.*\); check the name, HF_TOKEN") as error:
        push(run, "ada/words")
    assert "hf_wrong" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["words", "a/b/c", "../x", "a b/c"])
def test_what_is_not_a_repository_is_refused(run: Path, name: str) -> None:
    with pytest.raises(WordflockError, match="is not a repository"):
        push(run, name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WordflockError, match="has no model card or no model"):
        push(tmp_path, "ada/words")


@pytest.fixture
def pushed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a head, which is also on the Hub as ada/words."""
    folder = write_run(tmp_path / "trained")
    spec = feature_spec("tiny.en", 1.0, "1", False, 6)
    weights = get_weights(build_head("linear", spec.frames, 384, len(LABELS), seed=3))
    save_checkpoint(folder / "best.safetensors", Checkpoint(LABELS, "linear", 384, spec, weights))
    write_card(read_run(folder), folder)
    push(folder, "ada/words")
    monkeypatch.chdir(tmp_path)
    return folder


def test_what_was_pushed_is_loaded_back_and_says_the_same(
    pushed: Path, write_audio: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_audio(tmp_path / "a.wav", seconds=1.0)
    here, there = wordflock.load(pushed), wordflock.load("ada/words")
    assert there(recording) == here(recording)
    run_command(["predict", "ada/words", str(recording)])
    by_name = capsys.readouterr().out
    run_command(["predict", str(pushed), str(recording)])
    assert by_name == capsys.readouterr().out
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert list(wordflock.Detector("ada/words").feed(sound)) == list(wordflock.Detector(pushed).feed(sound))


def test_a_newer_version_is_taken_and_the_old_one_where_the_hub_is_gone(hub: Hub, pushed: Path) -> None:
    first = loading.find_model("ada/words").read_bytes()
    hub.shutdown()
    hub.server_close()
    assert loading.find_model("ada/words").read_bytes() == first == (pushed / "best.safetensors").read_bytes()


def test_a_file_that_is_not_what_the_hub_says_is_refused(hub: Hub, pushed: Path) -> None:
    hub.tampered = True
    with pytest.raises(WordflockError, match="is not what the Hub has"):
        wordflock.load("ada/words")


def test_a_file_that_is_too_large_is_not_fetched(hub: Hub, pushed: Path, tmp_path: Path) -> None:
    hub.claims = {"X-Linked-Size": str(loading.MAX_SIZE + 1)}
    with pytest.raises(WordflockError, match="is of 268 MB; a head has at most 268 MB"):
        wordflock.load("ada/words")
    assert not (tmp_path / "hub").exists()


def test_other_repositories_are_refused_in_a_sentence(hub: Hub, pushed: Path) -> None:
    with pytest.raises(WordflockError, match=r"no run or checkpoint 'eve/words' here.*no such repository"):
        wordflock.load("eve/words")
    del hub.files["best.safetensors"]
    with pytest.raises(WordflockError, match=r"the repository has no best\.safetensors, so `wordflock push` did not"):
        wordflock.load("ada/words")
    hub.files["best.safetensors"] = b"something else"
    with pytest.raises(WordflockError, match="cannot be read"):
        wordflock.load("ada/words")


def test_what_is_here_comes_first(pushed: Path, tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    with pytest.raises(WordflockError, match=r"There is no run or checkpoint 'ada/words'(?! here)"):
        wordflock.load("ada/words")
