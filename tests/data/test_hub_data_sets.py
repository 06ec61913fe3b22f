"""Data sets of a Hub on this machine, which speaks the API of Hugging Face: fetched once, and only what is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow
import pyarrow.parquet
import pytest
from hub_on_this_machine import COMMIT, HubHandler, HubServer, in_place_of_the_hub

from wordflock.data import hub as module
from wordflock.errors import WordflockError
from wordflock.hub import parts_of_data_set
from wordflock.prepare import load_table
from wordflock.settings import DataSettings, EvaluateSettings, resolved_paths
from wordflock.spotting import evaluate

REPOSITORY = "ada/words"


class Hub(HubServer):
    """Holds one data set; notes what it is asked for, and tampers with a file."""

    asked: list[str]
    tampered, commit = "", COMMIT
    gated = False
    lfs = False


class Handler(HubHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if self.server.gated:
            return self.answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        if f"/{REPOSITORY}" not in path:
            return self.answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        if path in (f"/api/datasets/{REPOSITORY}", f"/api/datasets/{REPOSITORY}/revision/main"):
            return self.answer(200, {"id": REPOSITORY, "sha": self.server.commit, "siblings": []})
        if path.startswith(f"/api/datasets/{REPOSITORY}/revision/"):
            return self.answer(404, {"error": "not found"}, {"X-Error-Code": "RevisionNotFound"})
        if path.startswith(tree := f"/api/datasets/{REPOSITORY}/tree/{self.server.commit}"):
            return self.tree(path.removeprefix(tree).strip("/"))
        name = path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{self.server.commit}/")
        content = self.server.files[name]
        body = content[::-1] if name == self.server.tampered else content
        about = {"ETag": f'"{self.sum(content)}"', "X-Repo-Commit": self.server.commit}
        return self.answer(200, body, about)

    do_HEAD = do_GET

    def tree(self, below: str) -> None:
        rows = [
            {"type": "file", "path": name, "size": len(content), "oid": self.sum(content, large=False)}
            | ({"lfs": {"oid": self.sum(content), "size": len(content), "pointerSize": 130}} if self.server.lfs else {})
            for name, content in self.server.files.items()
            if not below or name.startswith(f"{below}/")
        ]
        if rows:
            return self.answer(200, [{"type": "directory", "path": "data", "oid": "0" * 40}, *rows])
        return self.answer(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})

    def sum(self, content: bytes, large: bool = True) -> str:
        if large and self.server.lfs:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with in_place_of_the_hub(Hub(("127.0.0.1", 0), Handler), monkeypatch) as server:
        server.asked = []
        yield server


@pytest.fixture
def recordings(tmp_path: Path, write_audio: Callable[..., Path]) -> Callable[[str], bytes]:
    return lambda name: write_audio(tmp_path / "made" / f"{name}.wav").read_bytes()


@pytest.fixture
def parquet(tmp_path: Path, recordings: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """A file of two rows, as `datasets` writes it."""

    def write(split: str) -> bytes:
        rows = [
            {"audio": {"bytes": recordings(f"{split}{i}"), "path": "a.wav"}, "label": i, "speaker_id": split}
            for i in range(2)
        ]
        features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
        table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
        pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
        return (tmp_path / "x.parquet").read_bytes()

    return write


def clips(tmp_path: Path, name: str = REPOSITORY) -> set[str]:
    table = load_table(DataSettings(data=name, cache=str(tmp_path / "cache")))
    assert not table.faults
    return {f"{clip.word}/{clip.speaker}/{clip.split}" for clip in table.clips}


@pytest.mark.parametrize("lfs", [False, True])
def test_parquet_files_are_fetched_once_and_say_whence(
    lfs: bool,
    hub: Hub,
    parquet: Callable[[str], bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    printed: None,
) -> None:
    hub.lfs = lfs
    hub.files = {f"data/{split}-00000-of-00001.parquet": parquet(split) for split in ("train", "test")}
    hub.files |= {"README.md": b"words", "example.wav": b"RIFF", ".gitattributes": b""}
    assert clips(tmp_path) == {"no/train/train", "yes/train/train", "no/test/test", "yes/test/test"}
    said = capsys.readouterr().out
    assert f"{REPOSITORY}: commit {COMMIT[:12]} of the Hub; 2 files, 1 MB, to fetch into" in said
    assert not [path for path in hub.asked if "README" in path or "example" in path]
    hub.shutdown()
    hub.asked.clear()
    assert len(clips(tmp_path)) == 4 and hub.asked == []
    assert f"{REPOSITORY}: commit {COMMIT[:12]} of the Hub, in" in capsys.readouterr().out


def test_an_audio_folder_comes_with_its_tables(hub: Hub, recordings: Callable[[str], bytes], tmp_path: Path) -> None:
    rows = "file_name,label,speaker_id\na.wav,yes,anna\nb.wav,no,ben\n"
    hub.files = {"train/metadata.csv": rows.encode(), "train/a.wav": recordings("a"), "train/b.wav": recordings("b")}
    hub.files |= {"../evil.wav": b"x", "train/.hidden/c.wav": b"x", "model.bin": b"x"}
    assert clips(tmp_path, f"{REPOSITORY}@main") == {"yes/anna/train", "no/ben/train"}
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil.wav", "c.wav", "model.bin")]


def test_of_several_configurations_one_is_named(hub: Hub, parquet: Callable[[str], bytes], tmp_path: Path) -> None:
    hub.files = {f"{language}/train/0000.parquet": parquet(language) for language in ("de", "en")}
    with pytest.raises(WordflockError, match=r"several configurations \(de, en\); .* such as --data ada/words:de\.$"):
        clips(tmp_path)
    assert clips(tmp_path, f"{REPOSITORY}:en") == {"no/en/train", "yes/en/train"}
    assert not [path for path in hub.asked if path.endswith("parquet") and "/de/" in path]


def test_a_wrong_file_is_not_used_and_what_came_before_is_kept_where_it_is_still_the_same(
    hub: Hub, recordings: Callable[[str], bytes], tmp_path: Path
) -> None:
    hub.files = {f"{word}/anna_nohash_{n}.wav": recordings(f"{word}{n}") for word in ("yes", "no") for n in range(3)}
    hub.tampered = "no/anna_nohash_1.wav"
    with pytest.raises(WordflockError, match=r"no/anna_nohash_1\.wav is not what the Hub says of ada/words"):
        clips(tmp_path)
    hub.tampered, hub.commit = "", "decaf" + "0" * 35
    hub.asked.clear()
    del hub.files["yes/anna_nohash_0.wav"]
    assert clips(tmp_path) == {"yes/anna/train", "no/anna/train"}
    folder = module._folder(REPOSITORY, tmp_path / "cache")
    assert {str(path.relative_to(folder)) for path in folder.glob("*/*.wav")} == set(hub.files)
    assert all((folder / name).read_bytes() == content for name, content in hub.files.items())


def test_what_the_hub_does_not_give_is_one_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recordings: Callable[[str], bytes]
) -> None:
    hub.files = {"data.zip": b"PK", "README.md": b""}
    for name, said in {
        "eve/words": "no folder or archive 'eve/words' here, and .* has no such repository, or none that you may read",
        f"{REPOSITORY}@v9": "the repository has no such revision",
        f"{REPOSITORY}:nowhere": "it has no such folder",
        REPOSITORY: r"ada/words of the Hub holds neither Parquet files nor recordings, but \.zip; fetch it yourself",
    }.items():
        with pytest.raises(WordflockError, match=said) as error:
            clips(tmp_path, name)
        assert "\n" not in str(error.value)
    hub.files = {"yes/a.wav": recordings("a")}
    with monkeypatch.context() as few, pytest.raises(WordflockError, match="holds more than 0 files; name one of its"):
        few.setattr(module, "MAX_FILES", 0)
        clips(tmp_path)
    monkeypatch.setattr("wordflock.data.download._MARGIN", 1 << 60)
    with pytest.raises(WordflockError, match=r"GB free, and the download needs .* name another --cache"):
        clips(tmp_path)
    hub.gated = True
    with pytest.raises(WordflockError, match=r"its owner must let you read it; ask at .* HF_TOKEN"):
        clips(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WordflockError, match="HF_HUB_OFFLINE is set"):
        clips(tmp_path)


def test_what_may_be_on_this_machine_is_not_looked_up(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    with pytest.raises(WordflockError, match="ada/words does not exist"):
        clips(tmp_path)
    for path in (
        "clips/words.tar.gz",
        "/home/ada",
        "./ada",
        "words",
        "a/b/c",
        "x/y.zip",
        "~/words",
        "../a",
        "eve/words:a/../../b",
    ):
        assert parts_of_data_set(path) is None
    assert hub.asked == []
    assert parts_of_data_set("eve/words@refs/convert/parquet:de/x") == ("eve/words", "refs/convert/parquet", "de/x")
    assert resolved_paths("eve/words:de\nada/words") == f"eve/words:de\n{tmp_path / 'ada' / 'words'}"


def test_the_data_set_of_a_run_is_not_fetched_unless_the_user_names_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"data": REPOSITORY, "cache": str(tmp_path / "cache")}
    monkeypatch.setattr(evaluate, "read_config", lambda folder: config)
    with pytest.raises(WordflockError, match=r"only one that you name is fetched; .* --data ada/words\.$"):
        evaluate._data_of_run(tmp_path / "run" / "best.safetensors", EvaluateSettings())
    assert hub.asked == []


def test_two_processes_do_not_fetch_one_set_at_a_time(
    hub: Hub, recordings: Callable[[str], bytes], tmp_path: Path
) -> None:
    from wordflock.files import locked

    hub.files = {"yes/a.wav": recordings("a")}
    folder = module._folder(REPOSITORY, tmp_path / "cache")
    folder.mkdir(parents=True)
    with locked(folder), pytest.raises(WordflockError, match="in use by another process"):
        clips(tmp_path)
