"""Apple's pfl (`pip install pfl`) in one process: federated averaging of the same head on the same features."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.clips import features_of, run
from benchmarks.rounds import few_clips
from wordflock.encoder.backend import spec_of
from wordflock.encoder.store import Features
from wordflock.federation_settings import FederationSettings
from wordflock.head.torch_head import AttentiveHead
from wordflock.settings import TrainSettings

ROUNDS = 3


class Head(AttentiveHead):
    """The head, with the two methods that pfl asks for."""

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self(x), y, label_smoothing=0.05)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> dict[str, Any]:
        """The loss, which pfl asks for in its first round."""
        from pfl.metrics import Weighted

        return {"loss": Weighted(float(self.loss(x, y)) * len(x), len(x))}


def simulate(clips: Features, clients: int, local_epochs: int, train: bool = True) -> list[float]:
    """The seconds of each round in which all clients train."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Model(PyTorchModel):
        def do_multiple_epochs_of(self, *arguments: Any, **options: Any) -> Any:
            if train:
                return super().do_multiple_epochs_of(*arguments, **options)
            self.new_local_optimizer(learning_rate=1e-3)  # as our client makes one
            return None

    class Clock(TrainingProcessCallback):
        def __init__(self) -> None:
            self.times = [time.perf_counter()]

        def after_central_iteration(self, *arguments: Any, **options: Any) -> tuple[bool, Metrics]:
            self.times.append(time.perf_counter())
            return False, Metrics()

    settings, clock = FederationSettings(strategy="fedavg"), Clock()
    _, frames, width = clips.array.shape
    head = Head(frames, width, 12)
    x, y = clips.batch(np.arange(len(clips)))
    data = FederatedDataset(lambda user: Dataset(raw_data=[x, y]), get_user_sampler("minimize_reuse", range(clients)))
    model = Model(
        head,
        lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, fused=True),
        torch.optim.SGD(head.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=ROUNDS, evaluation_frequency=1000, train_cohort_size=clients, val_cohort_size=0
        ),
        backend=SimulatedBackend(training_data=data, val_data=None),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=local_epochs,
            local_learning_rate=settings.learning_rate,
            local_batch_size=settings.batch_size,
        ),
        callbacks=[clock],
    )
    return list(np.diff(clock.times))


def empty(data: str, cache: str, size: int) -> dict[str, Any]:
    """Rounds in which all of `size` clients take part and nobody trains."""
    took = simulate(few_clips(), size, 1, train=False)
    return {"ms_a_client": 1000 * float(np.median(took[1:])) / size, "first_s": took[0]}


def round_one_epoch(data: str, cache: str, size: int) -> dict[str, Any]:
    """A round of 10 clients with `size` clips each, one local epoch."""
    clips = features_of(data, cache, spec_of(TrainSettings(head="attentive")))
    return {"seconds": float(np.median(simulate(clips.part(0, size), 10, 1)[1:]))}


if __name__ == "__main__":
    run({"empty": empty, "round-one-epoch": round_one_epoch})
