"""Save and load a head with all that is needed to use it: one safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wordflock.arrays import same_shapes, shapes_of
from wordflock.data.names import clean_label
from wordflock.encoder.spec import FRAMES_PER_SECOND, MAX_WINDOW, MIN_WINDOW, FeatureSpec, names_layers
from wordflock.errors import WordflockError
from wordflock.files import load_tensors, parse_json, save_tensors
from wordflock.head.calibration import TEMPERATURES, Calibration
from wordflock.head.kinds import KINDS
from wordflock.head.numpy_head import Projection
from wordflock.settings import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from torch import nn

    from wordflock.head.torch_head import Head

FORMAT = 3
# No training gives more, and with larger ones logits could overflow: of the last layer, which may be solved for
# features of small deviation, and of the layers below it, which multiply.
MAX_OUTPUT, MAX_WEIGHT = 1e9, 1e6
MAX_LABEL = 1_024  # characters, as those of a name in an archive


@dataclass(frozen=True)
class Checkpoint:
    """A head, what its features must be, and how it was trained."""

    labels: list[str]
    head_kind: str
    width: int
    spec: FeatureSpec
    weights: dict[str, NDArray[np.float32]]
    training: dict[str, Any] = field(default_factory=dict)  # mode, epoch or round, validation accuracy, seed
    calibration: Calibration = field(default_factory=Calibration)
    random_features: int = 0  # of a clip, drawn from the seed under which the head was trained; 0: none

    @property
    def projection(self) -> Projection | None:
        """The random features' map, where there are any."""
        return Projection(self.random_features, self.training["seed"]) if self.random_features else None

    def build(self) -> Head:
        """The head with its weights, to be trained on; its size was allowed when it was trained first."""
        from wordflock.head.torch_head import build_head

        sizes = self.head_kind, self.spec.frames, self.width, len(self.labels)
        head = build_head(*sizes, seed=None, allow_large=True, projection=self.projection)
        set_weights(head, self.weights)
        return head


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; a reader finds the old file or the new one, whatever happens in between."""
    about = {k: v for k, v in asdict(checkpoint).items() if k != "weights"}
    save_tensors(path, checkpoint.weights, {"wordflock": json.dumps({"format": FORMAT, **about})})


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint. Raises WordflockError where it is missing, damaged or of something else."""
    weights, metadata = load_tensors(Path(path))
    try:
        about = parse_json(metadata["wordflock"])
        if about.pop("format") != FORMAT:
            raise WordflockError(f"The checkpoint {path} was written by another version of Wordflock; train it again.")
        about["spec"] = FeatureSpec(**about["spec"])
        about["calibration"] = Calibration(**about["calibration"])
        checkpoint = Checkpoint(weights=weights, **about)
        _check(checkpoint)
    except WordflockError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WordflockError(f"{path} is not a checkpoint of Wordflock; give a best.safetensors of a run.") from error
    for name, array in weights.items():
        if not (np.abs(array) <= largest_weight(name)).all():
            raise WordflockError(
                f"The checkpoint {path} has weights {name} that are not finite numbers of at most "
                f"{largest_weight(name):.0g}; take another."
            )
    return checkpoint


def largest_weight(name: str) -> float:
    """What the weights of that name may be at most."""
    return MAX_OUTPUT if name.startswith("output.") else MAX_WEIGHT


def _check(checkpoint: Checkpoint) -> None:
    """Raises KeyError, TypeError or ValueError where we could not have written this."""
    spec, labels = checkpoint.spec, checkpoint.labels
    kinds = [
        (checkpoint.width, int),
        (checkpoint.training, dict),
        (labels, list),
        *((label, str) for label in labels),
        *((text, str) for text in (spec.encoder, spec.fingerprint, spec.layer)),
        (spec.window, float),
        (spec.pooled, bool),
        (spec.frame_pooling, int),
        (checkpoint.random_features, int),
        (checkpoint.calibration.temperature, float),
        (checkpoint.calibration.threshold, float),
        (checkpoint.calibration.stream_thresholds, dict),
        *((threshold, float) for threshold in checkpoint.calibration.stream_thresholds.values()),
    ]
    for value, kind in kinds:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is not of type {kind.__name__}")
    if len(set(labels)) != len(labels) or not all(0 < len(label) <= MAX_LABEL for label in labels):
        raise ValueError("a label stands twice, is empty or too long")
    if any(clean_label(label, "a head") != label for label in labels):
        raise ValueError("a label that no data set has")
    low, high = TEMPERATURES
    if not low <= checkpoint.calibration.temperature <= high or not 0 <= checkpoint.calibration.threshold <= 1:
        raise ValueError(f"no head has the calibration {checkpoint.calibration}")
    if any(
        word not in labels or not 0 < share <= 1 for word, share in checkpoint.calibration.stream_thresholds.items()
    ):
        raise ValueError(f"no head has the stream thresholds {checkpoint.calibration.stream_thresholds}")
    if not MIN_WINDOW <= spec.window <= MAX_WINDOW or not names_layers(spec.layer):
        raise ValueError(f"no encoder has a window of {spec.window} s or a layer {spec.layer}")
    row = KINDS[checkpoint.head_kind]
    seed = checkpoint.training["seed"] if checkpoint.random_features else 0
    if checkpoint.random_features and not (row.random_features and type(seed) is int and seed >= 0):
        raise ValueError(f"no head {checkpoint.head_kind} has random features")
    if not 1 <= spec.frame_pooling <= MAX_WINDOW * FRAMES_PER_SECOND:
        raise ValueError(f"no frame is the mean of {spec.frame_pooling}")
    if spec.precision not in PRECISIONS:
        raise ValueError(f"no encoder computes in {spec.precision}")
    if spec.backend not in BACKENDS:
        raise ValueError(f"no encoder is computed by {spec.backend}")
    if any(array.dtype != np.float32 for array in checkpoint.weights.values()):
        raise TypeError("weights are not float32")
    theirs = row.shapes(spec.frames, checkpoint.width, len(labels), checkpoint.random_features)
    if shapes_of(checkpoint.weights) != theirs:
        raise ValueError("weights of another head")


def get_weights(head: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A copy of the head's weights."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in head.state_dict().items()}


def set_weights(head: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Put weights into a head. Raises RuntimeError where names or shapes are not the head's own."""
    import torch

    tensors = head.state_dict()  # which share the head's memory
    _check_shapes(tensors, weights)
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(np.array(weights[name])))


def own_weights(head: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The weights of a head on the CPU, not copies: writing to them changes the head."""
    return {name: tensor.numpy() for name, tensor in head.state_dict().items()}


def overwrite(own: Mapping[str, NDArray[np.float32]], weights: Mapping[str, NDArray[np.float32]]) -> None:
    """`set_weights` for a head whose `own_weights` are known: twice as fast. Raises RuntimeError as that does."""
    _check_shapes(own, weights)
    for name, array in own.items():
        np.copyto(array, weights[name])


def _check_shapes(own: Mapping[str, Any], weights: Mapping[str, NDArray[np.float32]]) -> None:
    if not same_shapes(own, weights):
        raise RuntimeError("weights of another head")
