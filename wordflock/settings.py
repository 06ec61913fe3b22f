"""Every option of a run, once: the command line, config.toml, Flower's run configuration and Python come from here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from wordflock.errors import OptionError, WordflockError
from wordflock.head.kinds import KINDS
from wordflock.hub import parts_of_data_set
from wordflock.options import (
    DATA,
    FEATURES,
    OUTPUT,
    PRIVACY,
    TRAINING,
    Options,
    join_lines,
    option,
    split_commas,
    split_lines,
)

PRECISIONS = ("float32", "bfloat16")
BACKENDS = ("torch", "onnxruntime")
CLOSED_FORM = "closed-form"
SYNTHETIC = "synthetic"
DATA_SETS = ("speech-commands", "speech-commands-test", "speech-commands-0.01", "fsdd")  # of data/download.py
# As data/layouts.py names them; not imported from there, for the settings are read by everything.
LAYOUTS = (
    "auto", "folders", "speaker-folders", "split-folders", "test-beside", "speech-commands", "kaggle", "edge-impulse",
    "label-speaker-number", "audio-folder", "parquet", "mswc", "common-voice", "nemo", "kaldi",
)  # fmt: skip
# Values for options that are not given, by the name of a preset.
PRESETS: dict[str, dict[str, Any]] = {
    "wordflock": {},
    # Flower's example whisper-federated-finetuning: AdamW without weight decay is its Adam.
    "flower-example": {
        "window": 30.0, "layer": "last", "frame_pooling": 1, "precision": "float32", "backend": "torch",
        "augmentations": 0.0, "head": "convolution", "batch_size": 8, "learning_rate": 1e-3, "schedule": "constant",
        "weight_decay": 0.0, "label_smoothing": 0.0, "epochs": 3, "rounds": 10, "local_epochs": 1,
    },
}  # fmt: skip


def resolved_paths(text: str) -> str:
    """Paths, a line each, as absolute ones, for a process in another folder; the names of data sets stay."""

    def is_name(path: str) -> bool:
        return (path in (SYNTHETIC, *DATA_SETS) and not Path(path).exists()) or parts_of_data_set(path) is not None

    return join_lines(path if is_name(path) else Path(path).expanduser().resolve() for path in split_lines(text))


def default_cache() -> Path:
    """The folder for everything that can be made again, unless --cache names another."""
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "wordflock"
    try:
        return Path.home() / ".cache" / "wordflock"
    except RuntimeError as error:
        raise WordflockError("There is no home folder for the cache; name a folder with --cache.") from error


@dataclass(frozen=True)
class DataSettings(Options):
    """Which clips."""

    data: str = option(
        "synthetic",
        "Folder or archive with clips, in any usual layout; several count as one data set; 'synthetic' generates words "
        "with espeak-ng, 'speech-commands' and 'fsdd' are what `wordflock data download` fetched, and "
        "`OWNER/NAME[@REVISION][:FOLDER]` is a data set of the Hugging Face Hub.",
        DATA,
        several=True,
    )
    speaker_pattern: str = option("", "Regular expression that finds the speaker in a file's name (group 1).", DATA)
    table: str = option("", "CSV, JSON lines or Parquet with columns file and any of speaker, split and word.", DATA)
    layout: str = option(
        "auto", "How the recordings are laid out, where that is not found.", DATA, choices=LAYOUTS, rare=True
    )
    language: str = option(
        "",
        "Language of espeak-ng, such as de, in which --data synthetic says the --keywords. (default: English words of "
        "Speech Commands)",
        DATA,
        rare=True,
    )
    cache: str = option("", "Folder for features and synthetic words. (default: ~/.cache/wordflock)", OUTPUT)
    device: str = option("auto", "Where to compute.", TRAINING, choices=("auto", "cpu", "cuda"), rare=True)
    seed: int = option(0, "Seed of every random choice.", TRAINING, minimum=0, maximum=2**63 - 1)

    @property
    def sources(self) -> list[str]:
        """The folders and archives of `data`."""
        return split_lines(self.data)

    @property
    def cache_folder(self) -> Path:
        """The cache, with the default filled in."""
        return Path(self.cache).expanduser() if self.cache else default_cache()


@dataclass(frozen=True)
class EvaluateSettings(DataSettings):
    """Which clips to score."""

    data: str = option(
        "", "Folder or archive with clips, or 'synthetic'. (default: the data of the run)", DATA, several=True
    )
    split: str = option("test", "Split to score.", DATA, choices=("train", "validation", "test"))


@dataclass(frozen=True)
class Settings(DataSettings):
    """Which clips, which labels, which features."""

    keywords: str = option(
        "", "Words to recognise, separated by commas. (default: the ten of Speech Commands, or every label)", DATA
    )
    unknown: bool | None = option(None, "Have a label for all other words. (default: depends on the data set)", DATA)
    silence: bool | None = option(None, "Have a label for silence. (default: depends on the data set)", DATA)
    negatives: str = option(
        "", "Folder or archive of talk without keywords, for _unknown_; 'synthetic' is talk that espeak-ng makes.", DATA
    )
    task: str = option(
        "auto",
        "What the head is for: to tell clips apart, or to find words in streams, which trains on windows made of the "
        "clips. auto is stream with --negatives.",
        DATA,
        choices=("auto", "clips", "stream"),
    )
    encoder: str = option(
        "tiny.en", "Whisper encoder: tiny, base, small (.en), a Hub repository, or a safetensors file.", FEATURES
    )
    window: float = option(1.4, "Seconds of a clip that the encoder sees, 0.2 to 30.", FEATURES)
    layer: str = option(
        "auto",
        "Layer whose output is used: 'last', a number from 1 on, or several as '2+3+last'. auto is what suits the "
        "head: 2+3+last for combined and linear ones, else the last.",
        FEATURES,
        rare=True,
    )
    frame_pooling: int = option(
        6,
        "Neighbouring frames that are averaged into one before they are stored; an even number makes encoding faster.",
        FEATURES,
        minimum=1,
        maximum=1_500,  # all of the longest window
        rare=True,
    )
    augmentations: float = option(
        0.3,
        "Augmented versions of each training clip: shifted, faster, in a room, with noise. Below 1, the share of the "
        "clips that one replaces, which costs no time.",
        FEATURES,
        minimum=0,
        maximum=99,
    )
    noise: str = option(
        "", "Folder or archive of noise, of any length, for augmented versions, beside made-up noise.", FEATURES
    )
    rooms: str = option(
        "", "Folder or archive of rooms' impulse responses for augmented versions, beside made-up rooms.", FEATURES
    )
    precision: str = option(
        "auto",
        "Number format that the encoder computes in. auto is bfloat16 where the processor has it, else float32.",
        FEATURES,
        choices=("auto", *PRECISIONS),
        rare=True,
    )
    backend: str = option(
        "auto",
        "Library that computes the encoder. auto is torch where the processor has bfloat16, else onnxruntime.",
        FEATURES,
        choices=("auto", *BACKENDS),
        rare=True,
    )
    head: str = option(
        "auto",
        "Kind of head; the last three work on pooled frames, 'linear-mean' on their means alone. auto is combined, or "
        "attentive where the last layer is not solved (--dp-epsilon, --last-layer averaged); in closed form linear, "
        "or with --dp-epsilon normalized, as with --random-features.",
        TRAINING,
        choices=("auto", *KINDS),
    )

    def __post_init__(self) -> None:
        """Replaces "auto" by what it stands for, so that files tell what was used. Raises OptionError."""
        if self.head == "auto":
            object.__setattr__(self, "head", self._auto_head())
        if self.task == "auto":
            object.__setattr__(self, "task", "stream" if self.negatives else "clips")
        if self.layer == "auto":
            object.__setattr__(self, "layer", KINDS[self.head].layer if self.head in KINDS else "last")
        super().__post_init__()
        if self.augmentations > 1 and self.augmentations % 1:
            raise OptionError("augmentations", self.augmentations, "is neither a whole number nor below 1")

    def _auto_head(self) -> str:
        return "combined"

    @property
    def pooled(self) -> bool:
        """Whether the head works on features whose frames are pooled before they are stored."""
        return self.head in KINDS and KINDS[self.head].pooled

    @property
    def for_streams(self) -> bool:
        """Whether the head is to find words in streams."""
        return self.task == "stream"

    @property
    def keyword_list(self) -> list[str]:
        """The keywords, one by one; empty where the data set decides."""
        return split_commas(self.keywords)


@dataclass(frozen=True)
class HeadSettings(Settings):
    """What centralized and federated training share."""

    mode: ClassVar[str]  # the command, as config.toml says it
    allow_large_head: bool = option(False, "Allow a head of over 800,000 parameters.", TRAINING, rare=True)
    random_features: int = option(
        0,
        "Output size of the seeded random projection of a clip's features (0: off); reduces the bytes of the "
        "closed form.",
        TRAINING,
        minimum=0,
        maximum=16_384,
        rare=True,
    )
    batch_size: int = option(64, "Clips in a training batch.", TRAINING, minimum=1)
    learning_rate: float = option(1e-3, "Peak learning rate of AdamW.", TRAINING, minimum=1e-9, maximum=10.0)
    schedule: str = option(
        "constant",
        "Learning rate over the (local) epochs: constant, or a rise and a fall in half a cosine.",
        TRAINING,
        choices=("constant", "cosine"),
        rare=True,
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", TRAINING, minimum=0, maximum=100.0, rare=True)
    label_smoothing: float = option(0.05, "Label smoothing of the loss.", TRAINING, minimum=0, maximum=0.9, rare=True)
    strategy: str = option(
        "gradient", "How the head is trained.", TRAINING, choices=("gradient", CLOSED_FORM)
    )  # what each way of training offers is said there
    dp_epsilon: float | None = option(
        None,
        "Differential privacy: ε of the whole run; inf clips without noise. (default: off)",
        PRIVACY,
        minimum=1e-3,
        infinite=True,
    )
    dp_delta: float = option(
        1e-5,
        "Probability δ that the ε guarantee fails; well below one over the number of units.",
        PRIVACY,
        minimum=0,
        maximum=0.5,
    )
    dp_unit: str = option(
        "clip", "What is protected: one clip, or all clips of a client.", PRIVACY, choices=("clip", "client")
    )
    dp_clipping_norm: float | None = option(
        None,
        "Norm that a unit's contribution is clipped to, a public number. (default: 1, by client 16)",
        PRIVACY,
        minimum=1e-9,
        rare=True,
    )
    dp_dimensions: int = option(
        128, "Dimensions of the public random projection of private statistics.", PRIVACY, minimum=1, rare=True
    )
    name: str = option("", "Name of the run, which is its folder below --runs. (default: made from the time)", OUTPUT)
    runs: str = option("runs", "Folder for runs.", OUTPUT)
    track: str = option(
        "tensorboard",
        "Experiment tracker that each epoch or round is logged to; the others come beside TensorBoard, and keep it on "
        "this machine unless their environment variables name a server.",
        OUTPUT,
        choices=("tensorboard", "mlflow", "trackio"),
        rare=True,
    )
    skip_test: bool = option(False, "Do not score the test split, as in the trials of a sweep.", OUTPUT, rare=True)

    def __post_init__(self) -> None:
        """As that of Settings; refuses a name that would put the run outside its folder."""
        super().__post_init__()
        if self.name and (Path(self.name).name != self.name or self.name[0] == "." or not self.name.isprintable()):
            raise OptionError("name", self.name, "is not a name; leave out /, a dot at the beginning and control codes")

    @property
    def closed_form(self) -> bool:
        """Whether the head is solved in closed form."""
        return self.strategy == CLOSED_FORM

    def _auto_head(self) -> str:
        if (self.closed_form and self.dp_epsilon is not None) or self.random_features:
            return "normalized"
        return "linear" if self.closed_form else super()._auto_head()

    def check_together(self) -> None:
        """Raises WordflockError where options do not go together."""
        if self.random_features and self.head in KINDS and not KINDS[self.head].random_features:
            raise WordflockError(
                f"--head {self.head} has no random features; leave out --random-features, or take --head normalized."
            )
        if self.dp_epsilon is None:
            return
        if not self.dp_delta:
            raise WordflockError("--dp-delta 0 is impossible with Gaussian noise; give a small one, such as 1e-6.")
        if self.closed_form and self.augmentations >= 1:
            raise WordflockError(
                "The statistics of --dp-epsilon count each clip once; take --augmentations 0, or a share below 1."
            )
        if self.closed_form and self.head != "normalized":
            raise WordflockError(
                f"--head {self.head} needs the clients' means and deviations, a further release; "
                "take --head normalized."
            )


@dataclass(frozen=True)
class TrainSettings(HeadSettings):
    """Centralized training."""

    mode = "train"
    strategy: str = option(
        "gradient",
        "How the head is trained; 'closed-form' solves its last layer from sufficient statistics, in one pass.",
        TRAINING,
        choices=("gradient", CLOSED_FORM),
    )
    epochs: int = option(10, "Passes over the training clips.", TRAINING, minimum=1)
    checkpoint: str = option("", "Checkpoint to continue from.", TRAINING)
    compile: bool = option(False, "Compile the head with torch.compile.", TRAINING, rare=True)

    def check_together(self) -> None:
        """Raises WordflockError where options do not go together."""
        super().check_together()
        if self.dp_epsilon is not None and (not self.closed_form or self.dp_unit == "client"):
            raise WordflockError("Centralized training is private with --strategy closed-form and --dp-unit clip only.")
