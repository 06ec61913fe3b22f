"""The encoder of encoder.py as an ONNX graph that onnxruntime runs: no torch, for small devices and a quick start.

The graph is written here, node by node, and not exported from torch, which would have to be loaded for that. The
weights are no part of it: onnxruntime reads them where numpy has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.spectrogram import log_mel
from wordflock.encoder.spec import FRAMES_PER_SECOND, FeatureSpec, highest_layer, merged_frames
from wordflock.encoder.weights import Dimensions

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

OPSET, IR_VERSION = 20, 9  # the first with Gelu; read by every onnxruntime since 1.17
CONTRIB = "com.microsoft"  # the domain of onnxruntime's own operators


@dataclass(frozen=True)
class OnnxEncoder:
    """An encoder in one thread and in float32; any number of threads may call it at once."""

    session: InferenceSession
    weights: list[OrtValue]  # whose memory onnxruntime reads, and does not keep: they must last as long as the session

    def encode(self, clips: NDArray[np.float32]) -> NDArray[np.float16]:
        """The features, as they are stored, of clips of shape (batch, samples).

        They are the same bytes whichever clips are encoded together.
        """
        (features,) = self.session.run(None, {"log_mel": log_mel(clips)})
        stored: NDArray[np.float16] = features.astype(np.float16)
        return stored


def build_onnx_encoder(
    spec: FeatureSpec, dimensions: Dimensions, tensors: dict[str, NDArray[np.float32]]
) -> OnnxEncoder:
    """The encoder that makes the features of a spec, whatever that says of runtime and precision."""
    from onnxruntime import InferenceSession, OrtValue, SessionOptions

    graph = encoder_graph(spec, dimensions, tensors)
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads come from outside, one a batch
    weights = [OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), weights)
    session = InferenceSession(graph.serialized(dimensions.mels), options, providers=["CPUExecutionProvider"])
    return OnnxEncoder(session, weights)


class Graph:
    """Nodes in the order in which they work, and their weights."""

    def __init__(self, tensors: dict[str, NDArray[np.float32]]) -> None:
        self._tensors, self.nodes = tensors, list[Any]()
        self.weights: dict[str, NDArray[np.float32]] = {}

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node; returns the name of what it gives."""
        from onnx import helper

        output = f"{operator}-{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def weight(self, name: str, array: NDArray[np.float32] | None = None) -> str:
        """A weight: an array, or the tensor of that name."""
        self.weights[name] = np.ascontiguousarray(self._tensors[name] if array is None else array)
        return name

    def linear(self, x: str, name: str, bias: bool = True) -> str:
        """A linear layer."""
        product = self.add("MatMul", x, self.weight(f"{name}.weight", self._tensors[f"{name}.weight"].T))
        return self.add("Add", product, self.weight(f"{name}.bias")) if bias else product

    def convolution(self, x: str, name: str, stride: int) -> str:
        """A convolution over three frames, with its activation."""
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("Gelu", self.add("Conv", x, *weights, kernel_shape=[3], pads=[1, 1], strides=[stride]))

    def norm(self, x: str, name: str) -> str:
        """A layer norm."""
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", x, *weights, axis=-1, epsilon=1e-5)

    def averaged(self, x: str, by: int) -> str:
        """The means of `by` neighbouring frames; the last may be of fewer."""
        if by == 1:
            return x
        channels = self.add("Transpose", x, perm=[0, 2, 1])
        means = self.add("AveragePool", channels, kernel_shape=[by], strides=[by], ceil_mode=1)
        return self.add("Transpose", means, perm=[0, 2, 1])

    def serialized(self, mels: int) -> bytes:
        """The graph from "log_mel" to what its last node gives, as a file would have it, with its weights elsewhere."""
        from onnx import TensorProto, helper

        weights = []
        for name, array in self.weights.items():
            tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="memory")
            weights.append(tensor)
        given = helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["clips", mels, "steps"])
        made = helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, ["clips", "frames", "width"])
        graph = helper.make_graph(self.nodes, "encoder", [given], [made], weights)
        domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model: bytes = helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION).SerializeToString()
        return model


def encoder_graph(spec: FeatureSpec, dimensions: Dimensions, tensors: dict[str, NDArray[np.float32]]) -> Graph:
    """What `Encoder.forward` computes."""
    graph, wanted, depth = Graph(tensors), spec.layer.split("+"), highest_layer(spec.layer, dimensions)
    merged = merged_frames(spec.frame_pooling)
    x = graph.convolution(graph.convolution("log_mel", "conv1", 1), "conv2", 2)
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    frames = round(spec.window * FRAMES_PER_SECOND)
    x = graph.add("Add", x, graph.weight("positions", tensors["embed_positions.weight"][:frames]))
    outputs = []
    for number in range(1, depth + 1):
        x = _layer(graph, x, f"layers.{number - 1}", dimensions, tensors)
        if number == 1:
            x = graph.averaged(x, merged)
        if str(number) in wanted:
            outputs.append(x)
    if "last" in wanted:
        outputs.append(graph.norm(x, "layer_norm"))
    features = graph.add("Concat", *outputs, axis=2)
    if not spec.pooled:
        graph.averaged(features, spec.frame_pooling // merged)
        return graph
    axis = graph.add("Constant", value_ints=[1])
    mean = graph.add("ReduceMean", features, axis, keepdims=1)
    centred = graph.add("Sub", features, mean)
    variance = graph.add("ReduceMean", graph.add("Mul", centred, centred), axis, keepdims=1)
    graph.add("Concat", mean, graph.add("Sqrt", variance), axis=1)
    return graph


def _layer(graph: Graph, x: str, name: str, dimensions: Dimensions, tensors: dict[str, NDArray[np.float32]]) -> str:
    """One pre-norm transformer layer."""
    normal = graph.norm(x, f"{name}.self_attn_layer_norm")
    parts = [graph.linear(normal, f"{name}.self_attn.{part}_proj", bias=False) for part in "qkv"]
    query, value = (tensors[f"{name}.self_attn.{part}_proj.bias"] for part in "qv")  # key has none
    bias = graph.weight(f"{name}.biases", np.concatenate([query, np.zeros_like(query), value]))
    attended = graph.add("MultiHeadAttention", *parts, bias, domain=CONTRIB, num_heads=dimensions.attention_heads)
    x = graph.add("Add", x, graph.linear(attended, f"{name}.self_attn.out_proj"))
    inner = graph.add("Gelu", graph.linear(graph.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1"))
    return graph.add("Add", x, graph.linear(inner, f"{name}.fc2"))
