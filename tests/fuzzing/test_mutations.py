"""Whatever is mutated, of what comes from elsewhere, is read or refused: no other error, no crash, no gigabytes."""

from __future__ import annotations

import io
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mutations import survive

from wordflock.audio.reading import read_clip
from wordflock.data.listing import Reader, list_files
from wordflock.data.manifests import open_table
from wordflock.encoder.spec import FeatureSpec
from wordflock.errors import WordflockError
from wordflock.head.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wordflock.head.kinds import KINDS as KINDS_OF_HEADS

QUICK, LONG = 2_500, 20_000  # mutations of a kind: of two kinds in every run of the tests, of all in `make fuzz`

KINDS = (
    ("WAV", None), ("WAV", "ULAW"), ("WAV", "MS_ADPCM"), ("RF64", None), ("W64", None), ("AIFF", None), ("AU", None),
    ("NIST", None), ("CAF", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None),
)  # fmt: skip


def recordings() -> list[bytes]:
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1600, 2)).astype(np.float32)
    found = []
    for kind, subtype in KINDS:
        file = BytesIO()
        soundfile.write(file, sound, 16_000, format=kind, subtype=subtype)
        found.append(file.getvalue())
    # An MP3 without its first frame, and with a tag.
    return [*found, b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + found[-1][found[-1].index(b"\xff", 200) :]]


def archives() -> list[bytes]:
    found = []
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
            file = BytesIO()
            with tarfile.open(fileobj=file, mode=mode, format=form) as tar:  # type: ignore[call-overload]
                for name in ("yes/1.wav", "no/" + "n" * 90 + ".wav", "no/2.wav", "list.txt"):
                    member = tarfile.TarInfo(name)
                    member.size = 600
                    tar.addfile(member, io.BytesIO(bytes(range(200)) * 3))
                link = tarfile.TarInfo("up/1.wav")
                link.type, link.linkname = tarfile.SYMTYPE, "../yes/1.wav"
                tar.addfile(link)
            found.append(file.getvalue())
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("yes/1.wav", "no/2.wav"):
            archive.writestr(name, bytes(600))
    return [*found, file.getvalue()]


def checkpoints() -> list[bytes]:
    spec = FeatureSpec(encoder="tiny.en", fingerprint="0" * 64, window=1.4, layer="1")
    shapes = KINDS_OF_HEADS["linear"].shapes(spec.frames, 4, 2, 0)
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.safetensors"
        save_checkpoint(path, Checkpoint(["yes", "no"], "linear", 4, spec, weights))
        return [path.read_bytes()]


def tables() -> list[bytes]:
    rows = "file,speaker,split,word\nyes/1.wav,anna,train,yes\nno/2.wav,ben,test,no\n"
    lines = '{"audio_filepath": "yes/1.wav", "duration": 1.0, "label": "yes"}\n' * 3
    return [
        rows.encode(),
        rows.replace(",", "\t").encode(),
        lines.encode(),
        rows.encode("utf-16"),
        lines.replace("}\n{", "},{").join("[]").encode(),
    ]


def read_archive(path: Path) -> None:
    listing = list_files(path)
    with Reader() as reader:
        for entry in listing.entries:
            if entry.size < 1 << 20:
                reader.read_bytes(entry)


def read_recording(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = read_clip(path)
    assert clip.dtype == np.float32 and len(clip) and np.isfinite(clip).all()


def read_table(path: Path) -> None:
    content = path.read_bytes()
    kind = {b"[": ".json", b"{": ".jsonl"}.get(content[:1], ".csv")
    table = path.with_suffix(kind)
    table.write_bytes(content)
    open_table(str(table))


def messages() -> list[bytes]:
    """Arrays as they travel, and a head packed for a journey."""
    wire = pytest.importorskip("wordflock.federation.wire")
    from wordflock.federation.packing import pack

    arrays = {"weight": np.ones((3, 40), np.float32), "bias": np.zeros(3, np.float32)}
    sent = [arrays["weight"], np.ones(5), np.arange(6, dtype=np.uint64).reshape(2, 3), pack(arrays)]
    return [wire.encode(array).data for array in sent]


def read_message(path: Path) -> None:
    from flwr.app import Array
    from flwr.common.constant import SType

    from wordflock.federation.packing import unpack
    from wordflock.federation.wire import MalformedMessage, decode

    try:
        array = decode(Array("float32", (3, 40), SType.NUMPY, path.read_bytes()))
        assert array.nbytes <= path.stat().st_size
        if array.dtype == np.uint8:
            unpack(array)
    except MalformedMessage:
        pass


TARGETS: dict[str, tuple[Callable[[], list[bytes]], Callable[[Path], object]]] = {
    "recordings": (recordings, read_recording),
    "archives": (archives, read_archive),
    "checkpoints": (checkpoints, lambda path: load_checkpoint(str(path))),
    "messages": (messages, read_message),
    "tables": (tables, read_table),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_not_mutated_is_read(kind: str, tmp_path: Path) -> None:
    seeds, consume = TARGETS[kind]
    assert seeds()
    for seed in seeds():
        (tmp_path / "whole").write_bytes(seed)
        consume(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["recordings", "archives"])
def test_mutated_sound_is_read_or_refused(kind: str) -> None:
    seeds, consume = TARGETS[kind]
    assert survive(consume, seeds(), QUICK, WordflockError) == ""


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", TARGETS)
def test_whatever_is_mutated_is_read_or_refused(kind: str) -> None:
    seeds, consume = TARGETS[kind]
    assert survive(consume, seeds(), LONG, WordflockError) == ""
