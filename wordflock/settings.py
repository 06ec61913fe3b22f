"""Every option of a run, once: the command line, config.toml and Flower's run configuration all come from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_type_hints

from wordflock.errors import WordflockError

HEADS = ("attentive", "convolution", "mean", "linear", "linear-mean", "normalized")
POOLED_HEADS = ("linear", "linear-mean", "normalized")  # which work on frames pooled before they are stored
PRECISIONS = ("float32", "bfloat16")
RUNTIMES = ("torch", "onnxruntime")

# Values for options that are not given, by the name of a recipe.
RECIPES: dict[str, dict[str, Any]] = {
    "wordflock": {},
    # Flower's example whisper-federated-finetuning: AdamW without weight decay is its Adam.
    "seed": {
        "window": 30.0,
        "layer": "last",
        "frame_pooling": 1,
        "precision": "float32",
        "runtime": "torch",
        "head": "convolution",
        "batch_size": 8,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "epochs": 3,
        "local_epochs": 1,
    },
}


def default_cache() -> Path:
    """Where things are kept that can be made again, unless --cache says otherwise."""
    return Path.home() / ".cache" / "wordflock"


def option(
    default: Any, help: str, *, choices: tuple[str, ...] = (), least: float | None = None, most: float | None = None
) -> Any:
    """A field of a settings class with what its users need to know."""
    return field(default=default, metadata={"help": help, "choices": choices, "least": least, "most": most})


@dataclass(frozen=True)
class DataSettings:
    """Which clips. `--some-option` on the command line, `some-option` in files, `some_option` here."""

    data: str = option("synthetic", "Folder, tar or tar.gz with clips; or 'synthetic' for words made on the spot.")
    speaker_pattern: str = option("", "Regular expression that finds the speaker in a file's name (group 1).")
    table: str = option("", "CSV or Parquet with columns file, speaker and, if wanted, split and word.")
    cache: str = option("", "Where features and synthetic words are kept. (default: ~/.cache/wordflock)")
    device: str = option("auto", "Where to compute.", choices=("auto", "cpu", "cuda"))
    seed: int = option(0, "Decides every random choice.", least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        """Raises WordflockError for a value that is not among the choices or is below the least."""
        for f in fields(self):
            value, choices, least = getattr(self, f.name), f.metadata["choices"], f.metadata["least"]
            if choices and value not in choices:
                raise WordflockError(f"--{dashed(f.name)} {value} is none of {', '.join(choices)}.")
            if value is None:
                continue
            if least is not None and not value >= least:
                raise WordflockError(f"--{dashed(f.name)} {value} is too small; the least is {least}.")
            if (most := f.metadata["most"]) is not None and not value <= most:
                raise WordflockError(f"--{dashed(f.name)} {value} is too large; the most is {most}.")

    @property
    def cache_folder(self) -> Path:
        """The cache, with the default filled in."""
        return Path(self.cache).expanduser() if self.cache else default_cache()

    def as_config(self) -> dict[str, str | int | float | bool]:
        """Flat, with dashes, "" for what is not set: the form of config.toml and of Flower's run configuration."""
        values = {dashed(f.name): getattr(self, f.name) for f in fields(self)}
        return {key: "" if value is None else value for key, value in values.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The settings in a flat configuration; keys that it has beyond them are passed over.

        Raises WordflockError for a value of the wrong type.
        """
        types = get_type_hints(cls)
        values = {}
        for f in fields(cls):
            if (key := dashed(f.name)) in config:
                value = None if config[key] == "" and f.default is None else config[key]
                if types[f.name] in (float, float | None) and type(value) is int:
                    value = float(value)
                a_number = types[f.name] in (int, int | None)
                if not isinstance(value, types[f.name]) or (a_number and isinstance(value, bool)):
                    raise WordflockError(f"The configuration's {key} = {value!r} is of the wrong type.")
                values[f.name] = value
        return cls(**values)


@dataclass(frozen=True)
class Settings(DataSettings):
    """Which clips, which labels, which features."""

    keywords: str = option("", "Words to recognise, separated by commas. (default: the usual ten, or every label)")
    unknown: bool | None = option(None, "Have a label for all other words. (default: as the data set is used)")
    silence: bool | None = option(None, "Have a label for silence. (default: as the data set is used)")
    encoder: str = option(
        "tiny.en", "Whisper encoder: tiny, base, small (.en), a Hub repository, or a safetensors file."
    )
    window: float = option(1.4, "Seconds of a clip that the encoder sees, 0.2 to 30.")
    layer: str = option(
        "auto",
        "Layer whose output is used: 'last', a number from 1 on, or several as '2+3+last'. auto is the last; with a "
        "linear head 2+3+last.",
    )
    frame_pooling: int = option(
        6,
        "Neighbouring frames that are averaged into one before they are stored; an even number saves encoding.",
        least=1,
    )
    variants: int = option(
        0, "Other versions of each training clip: moved, faster, in a room, beside noise.", least=0, most=99
    )
    precision: str = option(
        "auto",
        "Numbers that the encoder computes in. auto is what is fastest here; bfloat16 only where the processor has it.",
        choices=("auto", *PRECISIONS),
    )
    runtime: str = option(
        "auto",
        "What computes the encoder. auto is what is fastest here, measured once.",
        choices=("auto", *RUNTIMES),
    )
    head: str = option(
        "auto",
        "Kind of head; the last three work on pooled frames, 'linear-mean' on their means alone. auto is attentive; "
        "with --strategy exact linear, and with --dp-epsilon or --random-features as well normalized.",
        choices=("auto", *HEADS),
    )

    def __post_init__(self) -> None:
        """Fills in what "auto" stands for, so that files tell what was used."""
        exact = getattr(self, "strategy", "") == "exact"
        if self.head == "auto":
            private = exact and getattr(self, "dp_epsilon", None) is not None
            normalized = private or getattr(self, "random_features", 0) > 0
            object.__setattr__(self, "head", "normalized" if normalized else "linear" if exact else "attentive")
        if self.layer == "auto":
            object.__setattr__(self, "layer", "2+3+last" if self.head in POOLED_HEADS else "last")
        super().__post_init__()

    @property
    def keyword_list(self) -> list[str]:
        """The keywords, one by one; empty where the data set decides."""
        return [word.strip() for word in self.keywords.split(",") if word.strip()]


@dataclass(frozen=True)
class PartitionSettings(Settings):
    """Which clips belong to whom."""

    clients: int = option(100, "Clients that the training clips are divided among.", least=1)
    partition: str = option(
        "speaker", "How clips are divided among the clients.", choices=("speaker", "iid", "dirichlet", "shard")
    )
    alpha: float = option(0.5, "Concentration of --partition dirichlet: the smaller, the more unlike.", least=1e-3)


@dataclass(frozen=True)
class HeadSettings(Settings):
    """What both ways of training share."""

    allow_large_head: bool = option(False, "Allow a head of over 800,000 parameters.")
    random_features: int = option(
        0,
        "Numbers that a public random projection, drawn from the seed, makes of a clip's; 0: none. For exact sums of "
        "fewer bytes.",
        least=0,
        most=16_384,
    )
    batch_size: int = option(64, "Clips in a training batch.", least=1)
    learning_rate: float = option(1e-3, "Peak learning rate of AdamW.", least=1e-9, most=10.0)
    schedule: str = option(
        "constant",
        "Learning rate over the (local) epochs: constant, or up and then down in half a cosine.",
        choices=("constant", "cosine"),
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", least=0)
    label_smoothing: float = option(0.05, "Label smoothing of the loss.", least=0, most=0.9)
    dp_epsilon: float | None = option(
        None, "Differential privacy: ε of the whole run, inf for clipping without noise. (default: none)", least=1e-3
    )
    dp_delta: float = option(
        1e-5, "Chance δ that ε does not hold; should be well below one over the number of units.", least=0, most=0.5
    )
    dp_unit: str = option("clip", "What is protected: a clip, or all that a client has.", choices=("clip", "client"))
    dp_clip: float | None = option(
        None, "Norm that a unit's contribution is clipped to, a public number. (default: 1, by client 16)", least=1e-9
    )
    dp_dimensions: int = option(128, "Dimensions of the public random projection of private sums.", least=1)
    name: str = option("", "Name of the run, which is its folder below --runs. (default: made from the time)")
    runs: str = option("runs", "Folder for runs.")


@dataclass(frozen=True)
class TrainSettings(HeadSettings):
    """Centralized training."""

    strategy: str = option(
        "gradient",
        "How the head is trained; 'exact' solves its last layer from sums over the clips, in one pass.",
        choices=("gradient", "exact"),
    )
    epochs: int = option(10, "Passes over the training clips.", least=1)
    checkpoint: str = option("", "Checkpoint to go on from.")
    compile: bool = option(False, "Compile the head with torch.compile.")


@dataclass(frozen=True)
class FederationSettings(HeadSettings, PartitionSettings):
    """Federated training, on any engine."""

    rounds: int = option(10, "Rounds of training.", least=1)
    clients_per_round: int = option(10, "Clients that train in a round.", least=1)
    local_epochs: int = option(5, "Passes of a client over its clips in a round.", least=1)
    batch_size: int = option(16, "Clips in a training batch; a client with fewer clips is left out.", least=1)
    learning_rate: float = option(3e-3, "Peak learning rate of a client's AdamW.", least=1e-9, most=10.0)
    strategy: str = option(
        "fedavg",
        "How heads are put together; 'exact' solves the last layer from sums, in one round.",
        choices=("fedavg", "fedavgm", "fedadam", "fedyogi", "fedprox", "exact"),
    )
    start: str = option("untrained", "Head of the first round.", choices=("untrained", "exact"))
    min_clips: int = option(8, "Clips below which a client sends no sums, for they would give the clips away.", least=1)
    held_back: float | None = option(
        None,
        "Share of a client's clips that it keeps for its own evaluation. (default: 0.1, and 0 with --strategy exact)",
        least=0,
        most=0.9,
    )
    min_replies: int = option(1, "Heads that a round needs; with fewer it is repeated with other clients.", least=1)
    round_deadline: float = option(3600.0, "Seconds until a round goes on without those still missing.", least=0.1)
    upload: str = option(
        "auto",
        "Numbers in which clients send what they learned: float16 is half as much as float32. auto is float32 for "
        "rounds, and float64 for sums.",
        choices=("auto", "float64", "float32", "float16"),
    )
    keep: str = option(
        "total",
        "What the exact strategy keeps for `wordflock forget`: the total of the sums, or also each client's own.",
        choices=("total", "client-sums"),
    )
    add_to: str = option(
        "",
        "Run with --strategy exact whose sums these clients' are added to: it becomes a new run, nobody else is asked.",
    )
    take_from: str = option(
        "", "Run with --strategy exact whose sums these clients' are taken from, for clients that want out of it."
    )
    secure_sums: bool = option(False, "Let the server learn no client's sums or head, but only their total.")
    workers: int = option(0, "Clients trained at the same time. (default: one a processor core)", least=0)

    @property
    def held_back_share(self) -> float:
        """The share that clients hold back; sums are over all clips, as a central solution would be."""
        return (0.0 if self.strategy == "exact" else 0.1) if self.held_back is None else self.held_back

    @property
    def least_clips(self) -> int:
        """Clips below which a client takes no part."""
        return self.min_clips if self.strategy == "exact" else self.batch_size

    @property
    def sums_type(self) -> str:
        """The type of the numbers in sums."""
        return "float64" if self.upload == "auto" else self.upload


@dataclass(frozen=True)
class ServerSettings(FederationSettings):
    """A federation of real devices, seen from its server."""

    data: str = option("", "Clips to score the head on. (default: clients score it on clips that they hold back)")
    listen: str = option("127.0.0.1:8000", "Address and port to listen on; 0.0.0.0:8000 is every network.")
    certificates: str = option("", "Folder with ca.crt, server.crt and server.key, from 'wordflock certificates'.")
    insecure: bool = option(False, "Listen without TLS: whoever is on the network can read and change everything.")
    require_keys: str = option("", "Folder of clients' public keys (*.pub); clients with other keys are turned away.")
    min_clients: int = option(2, "Clients to wait for before the first round.", least=1)
    client_deadline: float = option(3600.0, "Seconds to wait for --min-clients, at the start and later.", least=1)
    keep_running: bool = option(False, "Stay when the run is done, for the next run with the same --listen.")
    resume: str = option("", "Run to go on with: its folder, or its name below --runs. Its own options count.")


@dataclass(frozen=True)
class ClientSettings(PartitionSettings):
    """One device of a federation."""

    server: str = option("", "Address and port of the server.")
    data: str = option("", "Folder or archive with this device's recordings.")
    cid: int | None = option(None, "Play this client (from 0) of the --clients that share --data.")
    name: str = option("", "Name of this device in the server's reports.")
    held_back: float = option(0.1, "Share of the clips kept for evaluation.", least=0, most=0.9)
    min_clips: int = option(8, "Clips below which this client sends no sums, whatever the server's least is.", least=1)
    secure_sums: bool = option(False, "Send what it learns in secure sums only, and nothing to a server without them.")
    ca: str = option("", "The CA's certificate, ca.crt, which the server must be certified by.")
    key: str = option("", "This client's private key, if the server requires one.")
    insecure: bool = option(False, "Connect without TLS.")
    give_up_after: float = option(3600.0, "Seconds without a server after which the client ends; 0: never.", least=0)


def dashed(name: str) -> str:
    """An option's name as users write it."""
    return name.replace("_", "-")


def check_privacy(settings: HeadSettings) -> None:
    """Raises WordflockError where settings ask for a privacy, or for a change of sums, that they cannot have."""
    earlier = [key for key in ("add_to", "take_from") if getattr(settings, key, "")]
    if len(earlier) > 1 or (earlier and (settings.dp_epsilon is not None or settings.strategy != "exact")):  # type: ignore[attr-defined]
        raise WordflockError("--add-to and --take-from are for --strategy exact without --dp-epsilon, one at a time.")
    if getattr(settings, "secure_sums", False) and getattr(settings, "keep", "total") != "total":
        raise WordflockError("--keep client-sums keeps what --secure-sums hides; take one of the two.")
    if settings.dp_epsilon is None:
        return
    if not settings.dp_delta:
        raise WordflockError("No Gaussian noise has --dp-delta 0; give a small one, 1e-6 say.")
    if isinstance(settings, TrainSettings) and (settings.strategy != "exact" or settings.dp_unit == "client"):
        raise WordflockError("Central training is private by --strategy exact and --dp-unit clip only.")
    if getattr(settings, "strategy", "") != "exact":
        if settings.dp_unit == "clip":
            raise WordflockError("Rounds are private by client only; add --dp-unit client, or take --strategy exact.")
        if getattr(settings, "start", "") == "exact":
            raise WordflockError("--start exact would be a release without noise; leave it out with --dp-epsilon.")
        if getattr(settings, "secure_sums", False):
            raise WordflockError(
                "Heads that nobody sees cannot be clipped; take --dp-epsilon or --secure-sums, not both."
            )
        if isinstance(settings, ServerSettings) and not settings.data:
            raise WordflockError("Which head is best must not be asked of the clients; give the server clips, --data.")
    elif settings.head != "normalized":
        raise WordflockError(
            f"--head {settings.head} would need the clients' moments, a second release; take --head normalized."
        )
    if getattr(settings, "keep", "total") != "total":
        raise WordflockError("--keep client-sums keeps what --dp-epsilon protects; take one of the two.")
