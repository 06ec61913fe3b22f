"""Upload to a server on this machine that speaks the Hub's API, and read the head back from it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from report_runs import write_run

from wordflock.errors import WordflockError
from wordflock.report.facts import read_run
from wordflock.report.hub import push
from wordflock.report.model_card import write_card

TOKEN = "hf_of_a_test"


class Hub(ThreadingHTTPServer):
    """Holds the files of one repository."""

    address: str
    files: dict[str, bytes]
    created: list[dict[str, object]]


class Handler(BaseHTTPRequestHandler):
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
        self.answer(404, {"error": "not found"})

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    server = Hub(("127.0.0.1", 0), Handler)
    server.files, server.created = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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
