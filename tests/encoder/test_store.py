"""The feature store under what happens to files: other processes, kills, full disks, damage; and encoding on top."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import killed_at
from numpy.typing import NDArray
from safetensors.numpy import save

from wordflock.audio.reading import SAMPLE_RATE, fit, read_clip
from wordflock.data.clips import Clip
from wordflock.encoder import store as store_module
from wordflock.encoder import weights
from wordflock.encoder.backend import batch_size
from wordflock.encoder.spec import FeatureSpec, feature_spec
from wordflock.encoder.store import FeatureStore, encode_clips, gathered, with_augmentations
from wordflock.errors import WordflockError, WordflockWarning

SPEC = FeatureSpec("small", "ab" * 32, 0.2, "last")
WIDTH = 8
SAMPLES = 4000  # of a clip


def features_of(keys: Iterable[str], width: int = WIDTH) -> NDArray[np.float16]:
    """Features that only the key decides, so that every row can be checked."""
    generators = [np.random.default_rng(crc32(key.encode())) for key in keys]
    return np.stack([g.normal(size=(SPEC.frames, width)).astype(np.float16) for g in generators])


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


def assert_holds(store: FeatureStore, keys: Iterable[str], width: int = WIDTH) -> None:
    """The store has exactly these keys, in rows without gaps, each with its own features."""
    keys = sorted(set(keys))
    rows, array = store.rows([*keys, "of nobody"]), store.array()
    assert sorted(rows) == keys
    assert sorted(rows.values()) == list(range(len(keys))) and len(array) == len(keys)
    if keys:
        np.testing.assert_array_equal(array[[rows[key] for key in keys]], features_of(keys, width))


def filled(cache: Path, clips: int = 5) -> FeatureStore:
    store = FeatureStore(cache, SPEC)
    store.add(numbers(0, clips), features_of(numbers(0, clips)))
    return store


# What a store is


@settings(max_examples=15)
@given(
    batches=st.lists(st.lists(st.text("0123456789abcdef", min_size=1, max_size=3), min_size=1, unique=True), max_size=5)
)
def test_what_is_added_is_served_once_and_for_all(batches: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as cache:
        store, keys = FeatureStore(Path(cache), SPEC), set()
        for batch in batches:
            store.add(batch, features_of(batch))
            keys |= set(batch)
            assert_holds(store, keys)
        assert_holds(FeatureStore(Path(cache), SPEC), keys)


def test_a_key_added_twice_keeps_its_first_row(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = store.rows(numbers(0, 5))
    store.add(["3", "new"], np.zeros((2, SPEC.frames, WIDTH), np.float16))
    after = store.rows([*numbers(0, 5), "new"])
    assert after == {**before, "new": 5}
    np.testing.assert_array_equal(store.array()[:5], features_of(sorted(before, key=before.__getitem__)))
    assert (store.folder / "features.bin").stat().st_size == 6 * SPEC.frames * WIDTH * 2


def test_a_key_twice_in_one_batch_has_one_row(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, SPEC)
    batch = ["0", "1", "0", "2", "1", "0"]
    store.add(batch, features_of(batch))
    assert_holds(store, ["0", "1", "2"])
    store.add(["3", "2", "3"], features_of(["3", "2", "3"]))
    assert_holds(FeatureStore(tmp_path, SPEC), ["0", "1", "2", "3"])


OTHERS: list[dict[str, Any]] = [
    {"fingerprint": "cd" * 32},
    {"window": 0.22},
    {"layer": "2"},
    {"layer": "2+last"},
    {"pooled": True},
    {"layer": "2", "pooled": True},
]


def test_other_encoders_windows_layers_and_pools_have_stores_of_their_own(tmp_path: Path) -> None:
    filled(tmp_path)
    for number, change in enumerate(OTHERS):
        other, key = replace(SPEC, **change), f"of {number}"
        store = FeatureStore(tmp_path, other)
        assert store.rows([*numbers(0, 5), *(f"of {before}" for before in range(number))]) == {}
        store.add([key], np.full((1, other.frames, WIDTH), number, np.float16))
        assert store.array().shape == (1, 2 if other.pooled else other.frames, WIDTH)
    assert_holds(FeatureStore(tmp_path, SPEC), numbers(0, 5))
    assert len(FeatureStore(tmp_path, replace(SPEC, encoder="a copy of it elsewhere")).rows(numbers(0, 5))) == 5


def test_an_array_stays_what_it_was_while_rows_are_added(tmp_path: Path) -> None:
    store = filled(tmp_path)
    array = store.array()
    store.add(numbers(5, 20), features_of(numbers(5, 20)))
    np.testing.assert_array_equal(array, features_of(numbers(0, 5)))
    assert_holds(store, numbers(0, 20))
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1.0


# Other processes, and how they end

ADDER = """
import os, resource, signal, sys, zlib
from pathlib import Path
import numpy as np
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.store import FeatureStore

cache, width, first, last, size = Path(sys.argv[1]), *map(int, sys.argv[2:6])
trouble = sys.argv[6]
real_fsync = os.fsync

def fsync(descriptor):
    if trouble == "killed after the rows are on the disk":
        real_fsync(descriptor)
    os.kill(os.getpid(), signal.SIGKILL)

print("ready", flush=True)
sys.stdin.readline()
store = FeatureStore(cache, FeatureSpec("small", "ab" * 32, 0.2, "last"))
for start in range(first, last, size):
    keys = [str(number) for number in range(start, min(start + size, last))]
    generators = [np.random.default_rng(zlib.crc32(key.encode())) for key in keys]
    features = np.stack([g.normal(size=(10, width)).astype(np.float16) for g in generators])
    if trouble.startswith("killed") and start > first:
        os.fsync = fsync
    if trouble.startswith("limit"):
        limit = int(trouble.removeprefix("limit"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.add(keys, features)
    except WordflockError as error:
        print(error)
        print(*sorted(store.rows([str(number) for number in range(last)]), key=int), flush=True)
        break
    print(start, flush=True)
"""


def adder(cache: Path, first: int, last: int, *, width: int = WIDTH, size: int = 4, trouble: str = "") -> Any:
    """A process that adds the features of the numbers from first to last, and prints the start of each batch added."""
    process = subprocess.Popen(
        [sys.executable, "-c", ADDER, str(cache), str(width), str(first), str(last), str(size), trouble],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def go(*processes: Any) -> None:
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def test_processes_that_fill_one_store_at_once_give_one_consistent_store(tmp_path: Path) -> None:
    processes = [adder(tmp_path, 30 * number, 30 * number + 80) for number in range(3)]  # they overlap
    go(*processes)
    for process in processes:
        assert process.communicate(timeout=60)[0].count("\n") == 20
        assert process.returncode == 0
    assert_holds(FeatureStore(tmp_path, SPEC), numbers(0, 140))


def test_a_process_killed_at_any_moment_leaves_every_indexed_row_whole(tmp_path: Path) -> None:
    width, size = 1024, 16  # 330 kB a batch, so that most of the time goes into writing
    chance, first = random.Random(0), 0
    for _ in range(5):
        with adder(tmp_path, first, 10_000, width=width, size=size) as process:
            go(process)
            added = [int(process.stdout.readline()) for _ in range(chance.randint(1, 5))]
            process.kill()
            added += map(int, process.stdout.read().split())  # what it had printed meanwhile
        assert process.returncode == -signal.SIGKILL
        store = FeatureStore(tmp_path, SPEC)
        known = len(store.rows(numbers(0, 10_000)))
        # All that was reported, and at most the one batch whose report was still to come.
        assert known - (added[-1] + size) in (0, size)
        assert_holds(store, numbers(0, known), width)
        first = known
    store.add(["usable"], features_of(["usable"], width))
    assert_holds(store, [*numbers(0, known), "usable"], width)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_killed_between_the_rows_and_the_index_leaves_what_was_there(moment: str, tmp_path: Path) -> None:
    process = adder(tmp_path, 0, 12, trouble=f"killed {moment} the rows are on the disk")
    go(process)
    assert process.communicate(timeout=60)[0] == "0\n"
    assert process.returncode == -signal.SIGKILL
    store = FeatureStore(tmp_path, SPEC)
    if moment == "after":  # the fault is what it says it is: rows are there that the index does not know
        assert (store.folder / "features.bin").stat().st_size == 8 * SPEC.frames * WIDTH * 2
    assert_holds(store, numbers(0, 4))
    store.add(["other"], features_of(["other"]))
    assert_holds(store, [*numbers(0, 4), "other"])


# Full disks


def test_a_file_that_may_not_grow_is_an_error_and_earlier_rows_are_served(tmp_path: Path) -> None:
    width = 1024  # 20,480 bytes a row: the limit is in the middle of the fifth, and the index stays below it
    process = adder(tmp_path, 0, 12, width=width, size=2, trouble="limit100000")
    go(process)
    *added, message, served = process.communicate(timeout=60)[0].splitlines()
    assert added == ["0", "2"]
    assert message.startswith(f"The feature store {FeatureStore(tmp_path, SPEC).folder} cannot be used (")
    assert served.split() == numbers(0, 4)
    store = FeatureStore(tmp_path, SPEC)
    store.add(numbers(4, 9), features_of(numbers(4, 9), width))
    assert_holds(store, numbers(0, 9), width)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system to fill")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here to fill")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_an_error_that_says_so_and_more_room_is_all_it_takes(tiny_disk: Path) -> None:
    store, added = FeatureStore(tiny_disk, SPEC), 0
    with pytest.raises(WordflockError, match=rf"^The disk is full below {store.folder}; .*kept\.$"):
        while True:
            batch = numbers(added, added + 64)
            store.add(batch, features_of(batch))
            added += 64
    assert added >= 128
    assert_holds(store, numbers(0, added))
    assert_holds(FeatureStore(tiny_disk, SPEC), numbers(0, added))
    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny_disk)], check=True)
    store.add(batch, features_of(batch))
    assert_holds(store, numbers(0, added + 64))


def test_a_disk_without_a_byte_left_is_still_read_from(tiny_disk: Path) -> None:
    store = filled(tiny_disk)
    with pytest.raises(OSError, match="No space left"), (tiny_disk / "other").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert_holds(store, numbers(0, 5))
    assert_holds(FeatureStore(tiny_disk, SPEC), numbers(0, 5))
    with pytest.raises(WordflockError, match=r"^The disk is full below"):
        store.add(["more"], features_of(["more"]))
    assert_holds(store, numbers(0, 5))


# Damage


def test_whatever_follows_the_last_row_is_overwritten(tmp_path: Path) -> None:
    store = filled(tmp_path)
    with (store.folder / "features.bin").open("ab") as file:
        file.write(b"garbage" * 1000)
    for cache in (store, FeatureStore(tmp_path, SPEC)):
        assert_holds(cache, numbers(0, 5))
    store.add(numbers(5, 9), features_of(numbers(5, 9)))
    assert_holds(FeatureStore(tmp_path, SPEC), numbers(0, 9))


def assert_damaged(store: FeatureStore) -> None:
    expected = f"The feature store {store.folder} is damaged; delete that folder and run again."
    with pytest.raises(WordflockError) as error:
        FeatureStore(store.folder.parents[1], SPEC)
    assert str(error.value) == expected
    shutil.rmtree(store.folder)  # the remedy it names
    assert_holds(filled(store.folder.parents[1]), numbers(0, 5))


def assert_heals(cache: Path, clips: int, damaged: set[int]) -> None:
    """The damaged rows are not served, and no others are lost; once they are added again, all is as it was."""
    store = FeatureStore(cache, SPEC)
    with pytest.warns(WordflockWarning, match=f"^{len(damaged)} clips? ha(s|ve) damaged features"):
        rows = store.rows(numbers(0, clips))
    assert set(numbers(0, clips)) - rows.keys() == {str(row) for row in damaged}
    array = store.array()
    for key, row in rows.items():
        np.testing.assert_array_equal(array[row], features_of([key])[0])
    lost = sorted(str(row) for row in damaged)
    store.add(lost, features_of(lost))
    rows, array = store.rows(numbers(0, clips)), store.array()
    np.testing.assert_array_equal(array[[rows[key] for key in numbers(0, clips)]], features_of(numbers(0, clips)))


@pytest.mark.parametrize(("kept", "damaged"), [(0.0, range(5)), (0.5, range(2, 5)), (0.999, [4])])
def test_rows_that_were_cut_off_are_encoded_again(kept: float, damaged: Iterable[int], tmp_path: Path) -> None:
    store = filled(tmp_path)
    content = (store.folder / "features.bin").read_bytes()
    (store.folder / "features.bin").write_bytes(content[: int(kept * len(content))])
    assert_heals(tmp_path, 5, set(damaged))


def test_a_deleted_features_file_is_made_again(tmp_path: Path) -> None:
    (filled(tmp_path).folder / "features.bin").unlink()
    assert_heals(tmp_path, 5, set(range(5)))


@settings(max_examples=15)
@given(row=st.integers(0, 499), place=st.integers(0, SPEC.frames * WIDTH * 2 - 1), change=st.integers(1, 255))
def test_one_byte_overwritten_anywhere_is_found(row: int, place: int, change: int) -> None:
    """Of many rows too: a sample of them would miss it."""
    with tempfile.TemporaryDirectory() as folder:
        store = filled(Path(folder), 500)
        store.rows(numbers(0, 500))  # they were whole a moment ago, and are checked again
        content = bytearray((store.folder / "features.bin").read_bytes())
        content[row * SPEC.frames * WIDTH * 2 + place] ^= change
        (store.folder / "features.bin").write_bytes(content)
        assert_heals(Path(folder), 500, {row})


def test_rows_that_were_zeroed_are_all_found(tmp_path: Path) -> None:
    store = filled(tmp_path, 500)
    content = bytearray((store.folder / "features.bin").read_bytes())
    row = SPEC.frames * WIDTH * 2
    chance = random.Random(0)
    zeroed = set(chance.sample(range(500), 470))
    for number in zeroed:
        content[number * row : (number + 1) * row] = bytes(row)
    (store.folder / "features.bin").write_bytes(content)
    assert_heals(tmp_path, 500, zeroed)


def test_a_row_is_read_for_its_checksum_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lengths = filled(tmp_path, 50), []
    monkeypatch.setattr(store_module.zlib, "crc32", lambda data: lengths.append(len(data)) or crc32(data))
    for keys in (numbers(0, 20), numbers(10, 30), numbers(0, 30)):
        assert len(store.rows(keys)) == len(keys)
    FeatureStore(tmp_path, SPEC).rows(numbers(0, 30))
    assert lengths == [SPEC.frames * WIDTH * 2] * 30


def test_a_device_s_rows_are_checked_and_named(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.check(range(5))
    content = bytearray((store.folder / "features.bin").read_bytes())
    content[-1] ^= 1
    (store.folder / "features.bin").write_bytes(content)
    store.check(range(4))
    for rows in ([4], [7]):
        with pytest.raises(WordflockError, match="is damaged; delete that folder and run again"):
            store.check(rows)


def test_a_complete_store_may_be_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path).folder
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and allowed(path, mode))  # root may write
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    store = FeatureStore(tmp_path, SPEC)
    assert_holds(store, numbers(0, 5))
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    with pytest.raises(WordflockError, match=r"readonly.*--cache"):
        store.add(["9"], features_of(["9"]))


@pytest.mark.parametrize("garbage", [b"garbage" * 1000, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8192])
def test_an_index_that_is_garbage_is_damage(garbage: bytes, tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.folder / "index.sqlite").write_bytes(garbage)
    for use in (store.array, lambda: store.rows(["1"]), lambda: store.add(["9"], features_of(["9"]))):
        with pytest.raises(WordflockError, match=f"^The feature store {store.folder} is damaged"):
            use()
    assert_damaged(store)


@pytest.mark.parametrize(
    ("words", "garbled"),
    [
        (b"UNIQUE NOT", b"UNI\xa0\xa1\xa2 NOT"),
        (b"TABLE clips", b"TABLE cl\xa0\xa1\xa2"),
        (b"NOT NULL", b"NO\xd3Q\xf0ULL"),  # sqlite repeats these in its message, which then is no text
    ],
    ids=["UNIQUE", "TABLE", "NOT NULL"],
)
def test_an_index_whose_words_are_garbled_is_an_error_that_names_it(
    words: bytes, garbled: bytes, tmp_path: Path
) -> None:
    store = filled(tmp_path)
    file = store.folder / "index.sqlite"
    content = file.read_bytes()
    assert words in content
    file.write_bytes(content.replace(words, garbled))
    with pytest.raises(WordflockError, match=rf"^The feature store {store.folder} .*\.$"):
        FeatureStore(tmp_path, SPEC)


def test_an_index_cut_short_never_serves_a_wrong_row(tmp_path: Path) -> None:
    store = filled(tmp_path, 60)
    whole = (store.folder / "index.sqlite").read_bytes()
    chance = random.Random(0)
    refused = 0
    for size in (0, 100, 4096, 8192, *(chance.randrange(len(whole)) for _ in range(30))):
        (store.folder / "index.sqlite").write_bytes(whole[:size])
        try:
            opened = FeatureStore(tmp_path, SPEC)
            rows, array = opened.rows(numbers(0, 60)), opened.array()
        except WordflockError as error:
            assert str(store.folder) in str(error)
            refused += 1
            continue
        for key, row in rows.items():
            np.testing.assert_array_equal(array[row], features_of([key])[0])
    assert refused > 10


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "fully booked").write_text("")
    (tmp_path / "full" / "features" / SPEC.folder / "index.sqlite").mkdir(parents=True)
    (tmp_path / "taken" / "features" / SPEC.folder / "features.bin").mkdir(parents=True)
    file = filled(tmp_path / "replaced").folder / "features.bin"
    file.unlink()
    file.mkdir()
    for cache in (tmp_path / name for name in ("fully booked", "full", "taken", "replaced")):
        with pytest.raises(
            WordflockError, match=rf"^The feature store {cache}/\S+ (cannot be used \(.*|is damaged; .*)\.$"
        ):
            filled(cache)


# Specs


@pytest.mark.parametrize("window", [-1.0, 0.0, 0.19, 30.01, float("inf"), float("nan")])
def test_a_window_outside_whisper_s_is_refused(window: float) -> None:
    with pytest.raises(WordflockError, match=rf"^A window of {window} s is outside 0\.2 to 30 s\.$"):
        feature_spec("tiny.en", window, "last")


NO_LAYERS = ["", "0", "-1", "1.5", "first", "LAST", "auto", "²", "³", "٣", "02", " 2", "2 ", "2\n", "9" * 5000]
NO_LAYERS += ["+", "2+", "+2", "2++3", "last+2", "3+2", "2+2", "last+last", "0+last", "2+0", "2+x", "2,3", "last/.."]


@pytest.mark.parametrize("layer", NO_LAYERS, ids=lambda layer: ascii(layer)[:20])
def test_a_layer_that_no_encoder_has_is_refused(layer: str) -> None:
    with pytest.raises(WordflockError) as error:
        feature_spec("tiny.en", 1.4, layer)
    assert str(error.value) == (
        f"Layer {layer!r} is neither 'last' nor a number from 1 on, nor rising ones joined by '+'."
    )


@settings(max_examples=30)
@given(
    window=st.floats(0.2, 30.0),
    layer=st.sampled_from(["last", "1", "12", "2+last", "1+2", "2+3+last", "9+10+12"]),
    pooled=st.booleans(),
    by=st.integers(1, 7),
)
def test_a_spec_has_whole_frames_and_the_weights_fingerprint(window: float, layer: str, pooled: bool, by: int) -> None:
    content = save({"weights": np.zeros(3, np.float32)})
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(content)
        file.flush()
        spec = feature_spec(file.name, window, layer, pooled, by)
    assert (spec.fingerprint, spec.layer, spec.pooled) == (sha256(content).hexdigest(), layer, pooled)
    assert spec.frames == (2 if pooled else -(-round(50 * spec.window) // by)) and type(spec.frames) is int
    assert spec.frame_pooling == (1 + (by % 2 == 0) if pooled else by)
    assert abs(spec.window - window) <= 0.01 + 1e-9


# Encoding


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Whisper encoder with random weights."""
    from safetensors.numpy import save_file

    folder, generator = tmp_path_factory.mktemp("encoder"), np.random.default_rng(0)
    sizes = weights.Dimensions(mels=80, width=32, layers=2, attention_heads=2, positions=60)
    tensors = {
        f"model.encoder.{name}": generator.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in weights.shapes(sizes)
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "encoder_attention_heads": 2}))
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, write_audio: Callable[..., Path]) -> list[Clip]:
    """Twenty-two recordings of noise between 0.2 and 0.4 s."""
    folder = tmp_path_factory.mktemp("recordings")
    return [clip_of(write_audio(folder / f"{n:02}.wav", seconds=0.2 + n / 100)) for n in range(22)]


def clip_of(path: Path, word: str = "yes") -> Clip:
    content = path.read_bytes()
    seconds = len(read_clip(path)) / SAMPLE_RATE
    return Clip(word, "s", "train", seconds, str(path), path.name, 0, len(content), sha256(content).hexdigest())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the clips that were encoded."""
    keys: list[str] = []
    add = FeatureStore.add
    monkeypatch.setattr(FeatureStore, "add", lambda store, new, features: (keys.extend(new), add(store, new, features)))
    return keys


def test_every_recording_is_encoded_once(
    encoder_file: Path, recordings: list[Clip], counted: list[str], tmp_path: Path
) -> None:
    spec = feature_spec(str(encoder_file), 0.3, "last")
    first = encode_clips(recordings[:12], range(12), spec, tmp_path, "cpu")
    assert sorted(counted) == sorted(clip.key for clip in recordings[:12])
    again = encode_clips(recordings[:12], range(12), spec, tmp_path, "cpu")
    assert len(counted) == 12
    # Ten more, among copies of them and of the first: it is what a recording holds that counts.
    copies = [replace(clip, word="no", split="test", name="a copy.wav") for clip in recordings]
    everything = encode_clips([*recordings, *copies], range(44), spec, tmp_path, "cpu")
    assert sorted(counted) == sorted(clip.key for clip in recordings)
    for features in (again, everything.part(0, 12)):
        for ours, theirs in zip(features.batch(np.arange(12)), first.batch(np.arange(12)), strict=True):
            assert ours.equal(theirs)
    assert everything.labels.tolist() == list(range(44))
    assert everything.batch(np.arange(22))[0].equal(everything.batch(np.arange(22, 44))[0])


@pytest.mark.parametrize("layer", ["last", "1"])
def test_features_are_the_encoder_s_of_each_clip_whatever_it_was_batched_with(
    layer: str, encoder_file: Path, recordings: list[Clip], tmp_path: Path
) -> None:
    import torch

    from wordflock.audio.spectrogram import log_mel
    from wordflock.encoder.torch_encoder import load_encoder

    spec = feature_spec(str(encoder_file), 0.3, layer)
    shuffled = random.Random(0).sample(recordings, len(recordings))
    together = encode_clips(shuffled, range(22), spec, tmp_path / "together", "cpu").batch(np.arange(22))[0]
    assert together.shape == (22, 15, 32)
    encoder = load_encoder(spec)
    for index, clip in enumerate(shuffled[:8]):
        alone = encode_clips([clip], [0], spec, tmp_path / "alone", "cpu").batch(np.arange(1))[0][0]
        with torch.inference_mode():
            direct = encoder(torch.from_numpy(log_mel(fit(read_clip(clip.path), 4800)[None])))[0]
        for features in (alone, direct):
            assert torch.allclose(together[index], features, rtol=2e-3, atol=2e-3)
    assert (together[0] - together[1]).abs().max() > 0.1  # clips differ by more than what is tolerated


def test_an_encoding_killed_at_a_file_operation_is_repeated_and_every_clip_is_there_once(
    encoder_file: Path, recordings: list[Clip], tmp_path: Path
) -> None:
    spec = feature_spec(str(encoder_file), 0.3, "last")
    whole = encode_clips(recordings, range(22), spec, tmp_path / "whole", "cpu")
    number, cache = 0, tmp_path / "killed"
    while killed_at(number, tmp_path, lambda: encode_clips(recordings, range(22), spec, cache, "cpu")):
        features = encode_clips(recordings, range(22), spec, cache, "cpu")
        np.testing.assert_array_equal(features.array[features.rows], whole.array[whole.rows])
        assert len(features.array) == len(set(features.rows.tolist())) == 22
        shutil.rmtree(cache)
        number += 2
    assert number > 5


@pytest.mark.parametrize("layer", ["last", "1+last"])
def test_pooled_features_are_encoded_kept_and_learned_from(
    layer: str, encoder_file: Path, recordings: list[Clip], counted: list[str], tmp_path: Path
) -> None:
    from wordflock.head.torch_head import build_head
    from wordflock.head.training import predict

    labels = [number % 3 for number in range(22)]
    frames = encode_clips(recordings, labels, feature_spec(str(encoder_file), 0.3, layer), tmp_path, "cpu")
    spec = feature_spec(str(encoder_file), 0.3, layer, pooled=True)
    pooled = encode_clips(recordings, labels, spec, tmp_path, "cpu")
    assert len(counted) == 44  # the two have stores of their own
    of_frames, of_pooled = (features.batch(np.arange(22))[0].numpy() for features in (frames, pooled))
    width = 32 * (1 + layer.count("+"))
    assert of_frames.shape == (22, 15, width) and of_pooled.shape == (22, spec.frames, width) == (22, 2, width)
    np.testing.assert_allclose(of_pooled[:, 0], of_frames.mean(axis=1), atol=2e-3)
    np.testing.assert_allclose(of_pooled[:, 1], of_frames.std(axis=1), atol=2e-3)
    # Another process finds them again, and a head of the spec's size takes them.
    again = encode_clips(recordings, labels, spec, tmp_path, "cpu")
    assert len(counted) == 44 and again.batch(np.arange(22))[0].numpy().tobytes() == of_pooled.tobytes()
    assert predict(build_head("linear", spec.frames, width, 3), again).shape == (22, 3)


def test_pooled_neighbours_have_a_store_of_their_own(
    encoder_file: Path, recordings: list[Clip], counted: list[str], tmp_path: Path
) -> None:
    every, fewer = (feature_spec(str(encoder_file), 0.3, "last", frame_pooling=by) for by in (1, 3))
    x, y = (
        encode_clips(recordings, range(22), spec, tmp_path, "cpu").batch(np.arange(22))[0] for spec in (every, fewer)
    )
    assert len(counted) == 44 and x.shape == (22, 15, 32) and y.shape == (22, 5, 32)
    means = [x[:, start : start + 3].mean(dim=1) for start in range(0, 15, 3)]
    assert all(y[:, index].allclose(mean, atol=2e-3) for index, mean in enumerate(means))


def test_variants_are_encoded_once_and_drawn_in_training_only(
    encoder_file: Path, recordings: list[Clip], counted: list[str], tmp_path: Path
) -> None:
    spec = feature_spec(str(encoder_file), 0.3, "last")
    clips = with_augmentations(recordings, 2)
    encoded = encode_clips(clips, [0] * 66, spec, tmp_path, "cpu")
    features = gathered(encoded, 22)
    assert len(features) == 22 and len(counted) == len(set(counted)) == 66
    again = encode_clips(with_augmentations(recordings, 1), [0] * 44, spec, tmp_path, "cpu")
    assert len(counted) == 66 and again.rows.tolist() == encoded.rows[:44].tolist()
    everything = encoded.batch(np.arange(66))[0].reshape(3, 22, 15, 32)
    chosen = np.array([3, 7, 7, 20])
    assert features.batch(chosen)[0].equal(everything[0, chosen])
    seen = set()
    for seed in range(40):
        x, _ = features.select(chosen).batch(np.arange(4), np.random.default_rng(seed))
        for place, clip in enumerate(chosen):
            (which,) = [version for version in range(3) if x[place].equal(everything[version, clip])]
            seen.add((place, which))
    assert len(seen) == 12  # each of the clips as itself and as each of its variants


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 0.999), cut=st.integers(0, 400))
def test_a_share_of_the_clips_is_replaced_by_a_variant_whoever_has_them(share: float, cut: int) -> None:
    clips = [
        Clip("yes", "", "train", 1.0, "", f"{i}.wav", 0, 0, sha256(bytes([i % 256, i // 256])).hexdigest())
        for i in range(400)
    ]
    heard = with_augmentations(clips, share)
    assert heard == with_augmentations(clips[:cut], share) + with_augmentations(clips[cut:], share)
    assert all(one in (clip, replace(clip, augmentation=1)) for clip, one in zip(clips, heard, strict=True))
    assert abs(sum(one.augmentation for one in heard) - 400 * share) < 50
    windows = [replace(clip, view="whole.0") for clip in clips]  # are in noise already
    assert with_augmentations(windows, share) == windows
    more = with_augmentations(clips, min(0.999, share + 0.1))
    assert all(one.augmentation <= other.augmentation for one, other in zip(heard, more, strict=True))


def test_a_variant_is_the_encoder_s_of_the_varied_clip(
    encoder_file: Path, recordings: list[Clip], tmp_path: Path
) -> None:
    import soundfile

    from wordflock.audio.augment import augment

    spec, clip = feature_spec(str(encoder_file), 0.3, "last"), recordings[5]
    soundfile.write(tmp_path / "varied.wav", augment(read_clip(clip.path), clip.key, 2), SAMPLE_RATE, subtype="FLOAT")
    both = [replace(clip, augmentation=2), clip_of(tmp_path / "varied.wav")]
    x, _ = encode_clips(both, [0, 1], spec, tmp_path, "cpu").batch(np.arange(2))
    assert x[0].allclose(x[1], rtol=2e-3, atol=2e-3)


def test_precisions_and_runtimes_have_a_store_each(
    encoder_file: Path, recordings: list[Clip], counted: list[str], tmp_path: Path
) -> None:
    ways = [("float32", "torch"), ("float32", "onnxruntime"), ("bfloat16", "torch")]
    specs = [
        feature_spec(str(encoder_file), 0.3, "last", precision=precision, backend=backend)
        for precision, backend in ways
    ]
    exact, again, near = (
        encode_clips(recordings, [0] * 22, spec, tmp_path, "cpu").batch(np.arange(22))[0] for spec in specs
    )
    assert len(counted) == 66 and len(list((tmp_path / "features").iterdir())) == 3
    assert len({spec.kind for spec in specs}) == 1
    assert (exact - again).norm() / exact.norm() < 1e-3 < (exact - near).norm() / exact.norm() < 0.02


def test_a_window_that_is_longer_than_the_encoder_sees_is_refused(
    encoder_file: Path, recordings: list[Clip], tmp_path: Path
) -> None:
    encode_clips(recordings[:1], [0], feature_spec(str(encoder_file), 1.2, "last"), tmp_path, "cpu")
    with pytest.raises(WordflockError, match=rf"^The encoder {encoder_file} sees 1\.2 s .* --window than 1\.22\.$"):
        encode_clips(recordings[:1], [0], feature_spec(str(encoder_file), 1.22, "last"), tmp_path, "cpu")


def test_a_crop_is_encoded_as_a_recording_of_it_would_be(
    encoder_file: Path, recordings: list[Clip], tmp_path: Path
) -> None:
    import soundfile

    spec = feature_spec(str(encoder_file), 0.2, "last")
    crop = replace(recordings[-1], start=0.1, seconds=0.2, gain=0.5)
    samples = 0.5 * read_clip(recordings[-1].path)[1600:4800]
    soundfile.write(tmp_path / "crop.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    both = encode_clips([crop, clip_of(tmp_path / "crop.wav")], [0, 1], spec, tmp_path, "cpu")
    x, _ = both.batch(np.arange(2))
    assert x[0].allclose(x[1], rtol=2e-3, atol=2e-3)


def test_a_recording_that_changed_is_named_and_nothing_is_encoded_twice_for_it(
    encoder_file: Path, recordings: list[Clip], counted: list[str], tmp_path: Path
) -> None:
    spec = feature_spec(str(encoder_file), 0.3, "last")
    moved = [clip_of(Path(shutil.copy(clip.path, tmp_path))) for clip in recordings]
    content = bytearray(Path(moved[-1].path).read_bytes())
    content[-1] ^= 1
    Path(moved[-1].path).write_bytes(content)
    with pytest.raises(WordflockError, match=rf"{moved[-1].name} in {moved[-1].path} changed"):
        encode_clips(moved, range(22), spec, tmp_path, "cpu")
    mended = [*moved[:-1], clip_of(Path(moved[-1].path))]
    encode_clips(mended, range(22), spec, tmp_path, "cpu")
    assert sorted(counted) == sorted(clip.key for clip in mended)


def test_what_is_read_before_an_error_is_kept(
    encoder_file: Path, write_audio: Callable[..., Path], tmp_path: Path
) -> None:
    spec = feature_spec(str(encoder_file), 1.2, "last")
    whole = 3 * batch_size(spec, "cpu")
    clips = [clip_of(write_audio(tmp_path / f"{number:03}.wav")) for number in range(whole + 1)]
    Path(clips[-1].path).unlink()
    with pytest.raises(WordflockError, match=f"{whole:03}.wav"):
        encode_clips(clips, range(len(clips)), spec, tmp_path, "cpu")
    assert len(FeatureStore(tmp_path, spec).rows([clip.key for clip in clips])) == whole


def test_features_are_the_same_bytes_however_many_cores_there_are(
    encoder_file: Path, recordings: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = feature_spec(str(encoder_file), 0.3, "last")
    found = []
    for cores in (1, 5):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        features = encode_clips(recordings, range(22), spec, tmp_path / str(cores), "cpu")
        found.append((features.array.tobytes(), features.rows.tolist()))
    assert found[0] == found[1]


def test_no_clips_have_no_features(encoder_file: Path, tmp_path: Path) -> None:
    assert len(encode_clips([], [], feature_spec(str(encoder_file), 0.3, "last"), tmp_path, "cpu")) == 0
