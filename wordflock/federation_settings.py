"""The options of a federation: who owns which clips, rounds, the server and its clients."""

from __future__ import annotations

from dataclasses import dataclass, fields

from wordflock.errors import WordflockError
from wordflock.head.kinds import KINDS
from wordflock.options import DATA, FEDERATION, OUTPUT, PRIVACY, TRAINING, dashed, option
from wordflock.settings import CLOSED_FORM, HeadSettings, Settings

# Options of training by gradients, which the closed form has no use for.
GRADIENT_OPTIONS = (
    "batch-size", "checkpoint", "clients-per-round", "compile", "init", "label-smoothing", "last-layer",
    "learning-rate", "local-epochs", "schedule", "weight-decay",
)  # fmt: skip


@dataclass(frozen=True)
class PartitionSettings(Settings):
    """Which clips belong to which client."""

    clients: int = option(
        100, "Number of clients that share the training clips.", FEDERATION, minimum=1, maximum=1_000_000
    )
    partition: str = option(
        "speaker",
        "How clips are divided among the clients.",
        FEDERATION,
        choices=("speaker", "iid", "dirichlet", "shard"),
    )
    alpha: float = option(
        0.5, "Concentration of --partition dirichlet; smaller is less balanced.", FEDERATION, minimum=1e-3
    )


@dataclass(frozen=True)
class DescribeSettings(PartitionSettings):
    """Which clips to describe, and how clients would share them."""

    clients: int = option(
        0,
        "Number of clients that share the training clips. (default: 100, or as many as a small data set has speakers)",
        FEDERATION,
        minimum=0,
        maximum=1_000_000,
    )


@dataclass(frozen=True)
class FederationSettings(HeadSettings, PartitionSettings):
    """Federated training, on any engine."""

    mode = "simulate"
    rounds: int = option(
        0, "Rounds of training by gradients. (default: 10; the closed form has one)", FEDERATION, minimum=0
    )
    clients_per_round: int = option(10, "Clients that train in a round.", FEDERATION, minimum=1)
    local_epochs: int = option(5, "Passes of a client over its clips in a round.", FEDERATION, minimum=1)
    batch_size: int = option(
        16, "Clips in a training batch; a client with fewer clips takes no part.", TRAINING, minimum=1
    )
    learning_rate: float = option(3e-3, "Peak learning rate of a client's AdamW.", TRAINING, minimum=1e-9, maximum=10.0)
    strategy: str = option(
        "auto",
        "How heads are aggregated; 'closed-form' solves the head from the clients' statistics, in one round. auto is "
        "closed-form, or fedavg where --rounds or another option of rounds is given.",
        FEDERATION,
        choices=("auto", CLOSED_FORM, "fedavg", "fedavgm", "fedadam", "fedyogi", "fedprox"),
    )
    init: str = option(
        "untrained", "Head that the first round starts from.", FEDERATION, choices=("untrained", CLOSED_FORM)
    )
    last_layer: str = option(
        CLOSED_FORM,
        "Last layer of the final head: solved in closed form over all clients after the last round (not with "
        "--dp-epsilon), or averaged as in the rounds.",
        FEDERATION,
        choices=(CLOSED_FORM, "averaged"),
    )
    min_clips: int = option(
        8,
        "Minimum number of clips of a client that sends statistics; those of fewer would reveal the clips.",
        PRIVACY,
        minimum=1,
    )
    holdout: float | None = option(
        None,
        "Share of a client's clips that it keeps for evaluation. (default: 0.1, and 0 in closed form)",
        FEDERATION,
        minimum=0,
        maximum=0.9,
    )
    min_replies: int = option(
        1, "Replies that a round needs; with fewer it is repeated with other clients.", FEDERATION, minimum=1
    )
    round_timeout: float = option(
        3600.0, "Seconds after which a round continues without missing clients.", FEDERATION, minimum=0.1, rare=True
    )
    upload_dtype: str = option(
        "auto",
        "Number format of what clients send; float16 takes half the bytes of float32. auto is float32 for rounds and "
        "float64 for statistics.",
        FEDERATION,
        choices=("auto", "float64", "float32", "float16"),
        rare=True,
    )
    keep_statistics: str = option(
        "total",
        "What the closed form keeps for `wordflock forget`: the total of the statistics, or each client's as well.",
        PRIVACY,
        choices=("total", "by-client"),
        rare=True,
    )
    add_to: str = option(
        "",
        "Closed-form run whose statistics these clients' are added to; makes a new run without asking anyone else.",
        FEDERATION,
        rare=True,
    )
    take_from: str = option(
        "",
        "Closed-form run whose statistics these clients' are subtracted from; makes a new run.",
        FEDERATION,
        rare=True,
    )
    secure_aggregation: bool = option(
        False, "The server learns the total of the clients' statistics or heads only, never a client's.", PRIVACY
    )
    resume: str = option("", "Run to resume, a folder or a name below --runs; the run's own options apply.", OUTPUT)
    workers: int = option(
        0,
        "Clients trained at the same time. (default: one a processor core)",
        FEDERATION,
        minimum=0,
        maximum=256,
        rare=True,
    )

    def __post_init__(self) -> None:
        """As that of Settings; also replaces the strategy "auto" and the default number of rounds."""
        if self.strategy == "auto":
            object.__setattr__(self, "strategy", "fedavg" if self._asks_for_rounds() else CLOSED_FORM)
        if self.closed_form or not self.rounds:
            object.__setattr__(self, "rounds", 1 if self.closed_form else 10)
        super().__post_init__()

    def _asks_for_rounds(self) -> bool:
        names = ("rounds", *GRADIENT_OPTIONS)
        return any(getattr(self, f.name) != f.default for f in fields(self) if dashed(f.name) in names)

    @property
    def holdout_share(self) -> float:
        """The share that clients keep for evaluation; statistics are over all clips, as a central solution would be."""
        return (0.0 if self.closed_form else 0.1) if self.holdout is None else self.holdout

    @property
    def required_clips(self) -> int:
        """Clips that a client needs to take part."""
        return self.min_clips if self.closed_form else self.batch_size

    @property
    def solves_last_layer(self) -> bool:
        """Whether the last layer is solved after the rounds; that would be one more release of a private run."""
        return self.last_layer == CLOSED_FORM and not self.closed_form and self.dp_epsilon is None

    def _auto_head(self) -> str:
        trained_whole = not self.closed_form and not self.random_features and not self.solves_last_layer
        return "attentive" if trained_whole else super()._auto_head()

    @property
    def statistics_dtype(self) -> str:
        """The number format of statistics."""
        return "float64" if self.upload_dtype == "auto" else self.upload_dtype

    def check_together(self) -> None:
        """Raises WordflockError where options do not go together."""
        super().check_together()
        private, by_client = self.dp_epsilon is not None, self.keep_statistics == "by-client"
        earlier = bool(self.add_to) + bool(self.take_from)
        if earlier > 1 or (earlier and (private or not self.closed_form)):
            raise WordflockError(
                "--add-to and --take-from need --strategy closed-form without --dp-epsilon, one of them at a time."
            )
        if by_client and (self.secure_aggregation or private):
            hidden = "--secure-aggregation hides" if self.secure_aggregation else "--dp-epsilon protects"
            raise WordflockError(f"--keep-statistics by-client keeps what {hidden}; take one of the two.")
        if not private or self.closed_form:
            return
        if self.dp_unit == "clip":
            raise WordflockError(
                "Rounds are private by client only; add --dp-unit client, or take --strategy closed-form."
            )
        if self.init == CLOSED_FORM:
            raise WordflockError("--init closed-form is a release without noise; leave it out with --dp-epsilon.")
        if self.secure_aggregation:
            raise WordflockError(
                "The server cannot clip heads that it does not see; take either --dp-epsilon or --secure-aggregation."
            )


@dataclass(frozen=True)
class ServerSettings(FederationSettings):
    """A federation of real devices, seen from its server."""

    mode = "server"
    data: str = option(
        "", "Clips to score the head on. (default: clients score it on their --holdout)", DATA, several=True
    )
    listen: str = option(
        "127.0.0.1:8000", "Address and port to listen on; 0.0.0.0:8000 is every network interface.", FEDERATION
    )
    certificates: str = option(
        "", "Folder with ca.crt, server.crt and server.key, from 'wordflock certificates'.", PRIVACY
    )
    insecure: bool = option(False, "Listen without TLS: anyone on the network can read and change everything.", PRIVACY)
    authorized_keys: str = option(
        "", "Folder of clients' public keys (*.pub); clients with other keys are refused.", PRIVACY
    )
    min_clients: int = option(2, "Clients to wait for before the first round.", FEDERATION, minimum=1)
    client_timeout: float = option(
        3600.0, "Seconds to wait for --min-clients, at the start and later.", FEDERATION, minimum=1, rare=True
    )
    dashboard: str = option(
        "",
        "Address and port for a page that shows the run as it goes on, such as 127.0.0.1:8080. (default: none)",
        OUTPUT,
    )
    keep_running: bool = option(
        False, "Keep the server running after the run, for the next run with the same --listen.", FEDERATION
    )

    def check_together(self) -> None:
        """Raises WordflockError where options do not go together."""
        super().check_together()
        if self.dp_epsilon is not None and not self.closed_form and not self.data:
            raise WordflockError("Clients cannot choose the best head privately; give the server clips with --data.")


@dataclass(frozen=True)
class ClientSettings(PartitionSettings):
    """One device of a federation."""

    server_address: str = option("", "Address and port of the server.", FEDERATION, short="server")
    data: str = option("", "Folder or archive with this device's recordings.", DATA, several=True)
    cid: int | None = option(
        None, "Play this client (from 0) of the --clients that share --data.", FEDERATION, rare=True
    )
    head: str = option(
        "auto",
        "Kind of head that the server trains. auto is linear, the server's own default; for rounds it is combined.",
        TRAINING,
        choices=("auto", *KINDS),
    )
    name: str = option("", "Name of this device in the server's reports.", FEDERATION)
    holdout: float = option(0.1, "Share of the clips kept for evaluation.", FEDERATION, minimum=0, maximum=0.9)
    min_clips: int = option(
        8, "Minimum number of clips for sending statistics, whatever the server's minimum is.", PRIVACY, minimum=1
    )
    secure_aggregation: bool = option(
        False, "Send only masked totals; refuse a server without secure aggregation.", PRIVACY
    )
    ca: str = option("", "Certificate of the CA, ca.crt, that signed the server's certificate.", PRIVACY)
    key: str = option("", "This client's private key, if the server requires one.", PRIVACY)
    insecure: bool = option(False, "Connect without TLS.", PRIVACY)
    reconnect_timeout: float = option(
        3600.0,
        "Seconds without a server after which the client ends; 0: never, and it stays when a run is over.",
        FEDERATION,
        minimum=0,
    )

    def _auto_head(self) -> str:
        return "linear"
