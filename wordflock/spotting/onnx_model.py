"""A head with its encoder as one ONNX graph: raw samples in, probabilities out, the spectrogram inside.

Whoever has onnxruntime, in any language, can use it: nothing else of Wordflock is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.spectrogram import FFT_SAMPLES, HOP_SAMPLES, hann, mel_filters
from wordflock.encoder.onnx_encoder import CONTRIB, IR_VERSION, OPSET, Graph, encoder_graph
from wordflock.encoder.spec import weights_for
from wordflock.head.checkpoint import Checkpoint
from wordflock.head.numpy_head import MIN_VARIANCE
from wordflock.spotting.predict import same_encoder

if TYPE_CHECKING:
    from onnx import ModelProto

SAMPLES, LOG_MEL, PROBABILITIES = "samples", "log_mel", "probabilities"


def build_model(checkpoint: Checkpoint, name: str, half: bool) -> ModelProto:
    """The whole model, weights inside: in float16 where `half`, to be read into float32. `name` is what errors call it.

    Raises WordflockError where the encoder here is another than the one that the head was trained on.
    """
    from onnx import TensorProto, helper, numpy_helper

    dimensions, tensors = weights_for(checkpoint.spec, same_encoder(checkpoint, name))
    graph = encoder_graph(checkpoint.spec, dimensions, tensors)
    features = graph.nodes[-1].output[0]
    _head(graph, features, checkpoint)
    graph.nodes[-1].output[0] = PROBABILITIES
    spectrogram = Graph({})
    _log_mel(spectrogram)
    spectrogram.nodes[-1].output[0] = LOG_MEL
    renamed = {node.output[0]: f"mel-{node.output[0]}" for node in spectrogram.nodes[:-1]}
    for node in spectrogram.nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    nodes, initializers = [*spectrogram.nodes, *graph.nodes], []
    for name, array in {**spectrogram.weights, **graph.weights}.items():
        if half and array.dtype == np.float32 and array.ndim > 1 and name in graph.weights:
            nodes.insert(0, helper.make_node("Cast", [f"{name}-half"], [name], to=TensorProto.FLOAT))
            initializers.append(numpy_helper.from_array(array.astype(np.float16), f"{name}-half"))
        else:
            initializers.append(numpy_helper.from_array(array, name))
    samples = round(checkpoint.spec.window * SAMPLE_RATE)
    given = helper.make_tensor_value_info(SAMPLES, TensorProto.FLOAT, ["clips", samples])
    made = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["clips", len(checkpoint.labels)])
    between = helper.make_tensor_value_info(LOG_MEL, TensorProto.FLOAT, ["clips", dimensions.mels, samples // 160])
    whole = helper.make_graph(nodes, "wordflock", [given], [made], initializers, value_info=[between])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION, producer_name="wordflock")


def _log_mel(graph: Graph) -> None:
    """What `spectrogram.log_mel` computes; the Fourier transform is a convolution with windowed sines and cosines."""
    angle = 2 * np.pi * np.outer(np.arange(FFT_SAMPLES // 2 + 1), np.arange(FFT_SAMPLES)) / FFT_SAMPLES
    waves = np.concatenate([np.cos(angle), np.sin(angle)]) * hann()
    half = FFT_SAMPLES // 2
    kernels = graph.weight("mel-waves", waves[:, np.newaxis].astype(np.float32))
    filters = graph.weight("mel-filters", np.ascontiguousarray(mel_filters().T))
    channel = graph.add("Constant", value_ints=[1])
    pads = graph.add("Constant", value_ints=[0, 0, half, 0, 0, half - HOP_SAMPLES])  # without the frame after the end
    padded = graph.add("Pad", graph.add("Unsqueeze", SAMPLES, channel), pads, mode="reflect")
    both = graph.add("Conv", padded, kernels, kernel_shape=[FFT_SAMPLES], strides=[HOP_SAMPLES])
    squares = graph.add("Mul", both, both)
    parts = graph.add("Constant", value_ints=[0, 2, half + 1, -1])
    power = graph.add("ReduceSum", graph.add("Reshape", squares, parts), channel, keepdims=0)
    mel = graph.add("Max", graph.add("MatMul", filters, power), _constant(graph, 1e-10))
    decades = graph.add("Mul", graph.add("Log", mel), _constant(graph, 1 / np.log(10)))
    axes = graph.add("Constant", value_ints=[1, 2])
    least = graph.add("Sub", graph.add("ReduceMax", decades, axes, keepdims=1), _constant(graph, 8.0))
    raised = graph.add("Add", graph.add("Max", decades, least), _constant(graph, 4.0))
    graph.add("Mul", raised, _constant(graph, 0.25))


def _head(graph: Graph, features: str, checkpoint: Checkpoint) -> None:
    """What `numpy_head.logits` computes, then the softmax at the checkpoint's temperature."""
    weights = checkpoint.weights
    kinds: dict[str, Callable[[Graph, str, Checkpoint], str]] = {
        "attentive": _attentive,
        "combined": _combined,
        "linear": lambda graph, x, _: graph.add("Flatten", x, axis=1),
        "linear-mean": lambda graph, x, _: graph.add("Flatten", _first_frame(graph, x), axis=1),
        "convolution": _convolution,
        "mean": _mean,
        "normalized": _normalized,
    }
    pooled = kinds[checkpoint.head_kind](graph, features, checkpoint)
    heat = np.float32(checkpoint.calibration.temperature)
    scores = graph.add("MatMul", pooled, graph.weight("output", weights["output.weight"].T / heat))
    graph.add("Softmax", graph.add("Add", scores, graph.weight("output-bias", weights["output.bias"] / heat)), axis=1)


def _attentive(graph: Graph, x: str, checkpoint: Checkpoint) -> str:
    x = _norm(graph, x, checkpoint)
    hidden = graph.add("Tanh", _linear(graph, x, checkpoint, "attention_in"))
    scores = graph.add("MatMul", hidden, _weight(graph, checkpoint, "attention_out.weight", transposed=True))
    weighted = graph.add("Mul", graph.add("Softmax", scores, axis=1), x)
    axis = graph.add("Constant", value_ints=[1])
    mean = graph.add("ReduceSum", weighted, axis, keepdims=0)
    square = graph.add("ReduceSum", graph.add("Mul", weighted, x), axis, keepdims=0)
    variance = graph.add("Sub", square, graph.add("Mul", mean, mean))
    deviation = graph.add("Sqrt", graph.add("Max", variance, _constant(graph, MIN_VARIANCE)))
    return graph.add("Concat", mean, deviation, axis=1)


def _combined(graph: Graph, x: str, checkpoint: Checkpoint) -> str:
    axis = graph.add("Constant", value_ints=[1])
    mean = graph.add("ReduceMean", x, axis, keepdims=0)
    centred = graph.add("Sub", x, graph.add("ReduceMean", x, axis, keepdims=1))
    variance = graph.add("ReduceMean", graph.add("Mul", centred, centred), axis, keepdims=0)
    learned = graph.add("Transpose", _norm(graph, x, checkpoint), perm=[0, 2, 1])
    for name in ("first", "second"):
        weights = [_weight(graph, checkpoint, f"{name}.{part}") for part in ("weight", "bias")]
        learned = graph.add("Relu", graph.add("Conv", learned, *weights, kernel_shape=[3], pads=[1, 1]))
    last = graph.add("Constant", value_ints=[2])
    summaries = [graph.add(operator, learned, last, keepdims=0) for operator in ("ReduceMean", "ReduceMax")]
    return graph.add("Concat", mean, graph.add("Sqrt", variance), *summaries, axis=1)


def _convolution(graph: Graph, x: str, checkpoint: Checkpoint) -> str:
    mix = graph.weight("head-mix", checkpoint.weights["mix.weight"][:, :, 0])
    bias = graph.weight("head-mix-bias", checkpoint.weights["mix.bias"][:, np.newaxis])
    return graph.add("Flatten", graph.add("Relu", graph.add("Add", graph.add("MatMul", mix, x), bias)), axis=1)


def _mean(graph: Graph, x: str, checkpoint: Checkpoint) -> str:
    mean = graph.add("ReduceMean", x, graph.add("Constant", value_ints=[1]), keepdims=0)
    return graph.add("Gelu", _linear(graph, _norm(graph, mean, checkpoint), checkpoint, "hidden"))


def _normalized(graph: Graph, x: str, checkpoint: Checkpoint) -> str:
    width, frames = checkpoint.width, checkpoint.spec.frames
    ones = graph.weight("head-ones", np.ones(width, np.float32))
    normal = graph.add("LayerNormalization", x, ones, axis=-1, epsilon=MIN_VARIANCE)
    flat = graph.add("Mul", graph.add("Flatten", normal, axis=1), _constant(graph, 1 / np.sqrt(frames * width)))
    if checkpoint.projection is None:
        return flat
    return graph.add("MatMul", flat, graph.weight("head-projection", checkpoint.projection.matrix(frames * width)))


def _first_frame(graph: Graph, x: str) -> str:
    start, end, axis = (graph.add("Constant", value_ints=[value]) for value in (0, 1, 1))
    return graph.add("Slice", x, start, end, axis)


def _norm(graph: Graph, x: str, checkpoint: Checkpoint) -> str:
    weights = [_weight(graph, checkpoint, f"norm.{part}") for part in ("weight", "bias")]
    return graph.add("LayerNormalization", x, *weights, axis=-1, epsilon=MIN_VARIANCE)


def _linear(graph: Graph, x: str, checkpoint: Checkpoint, name: str) -> str:
    product = graph.add("MatMul", x, _weight(graph, checkpoint, f"{name}.weight", transposed=True))
    return graph.add("Add", product, _weight(graph, checkpoint, f"{name}.bias"))


def _weight(graph: Graph, checkpoint: Checkpoint, name: str, transposed: bool = False) -> str:
    array = checkpoint.weights[name]
    return graph.weight(f"head-{name}", array.T if transposed else array)


def _constant(graph: Graph, value: float) -> str:
    return graph.add("Constant", value_float=float(value))
