"""A token reward model as an ONNX graph built for scoring one sequence after another on a CPU.

Two things make it fast: fused operators of ONNX Runtime (one product for query, key and value, one for gate and up;
norm and residual in one), and keys and values that come in and go out, so that a prompt is computed once for all of its
responses.

`input_ids` int64 [1, n], `length` int32 [] (of past and input together), `first` int64 [1] (of the input, whose reward
is wanted: the last layer spares itself what only those before would need), `past_key.L`, `past_value.L` float32
[1, key_value_heads, past, head_size]
-> `rewards` float32 [1, n - first], `new_key.L`, `new_value.L` [1, key_value_heads, n, head_size]: of the input alone,
as nothing needs them joined to a past.

With `int8` the products with weights are of integers: a scale for each row of activations, so that no token's reward
depends on another token (one scale for all rows, as quantisation usually has, lets the future change the past), and one
for each column of weights. Norms, attention, activations and the head stay in float32.

Llama, Qwen2, GPT-2 and GPT-NeoX; `supports` says whether a model is one of them, through and through.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from .models import RewardModel

CONTRIB = "com.microsoft"
# Rotary tables that depend on how long a sequence is cannot be written into a graph.
DYNAMIC_ROTARY = {"dynamic", "longrope"}
ACTIVATIONS = {
    "silu": ("QuickGelu", {"alpha": 1.0}),
    "gelu": ("Gelu", {}),
    "gelu_new": ("FastGelu", {}),
    "gelu_pytorch_tanh": ("FastGelu", {}),
}
LANES = 16
# Scorers may put a token behind a sequence of full length, whose reward they throw away (src/scoring/reward-graph.ts).
SPARE = 1
# Processors without dot products of bytes (VNNI) add two products of an activation (to 255) and a weight into 16 bits
# and saturate in silence. With weights of 7 bits they do not, as 2 * 255 * 63 < 2^15, and all give the same integers.
GREATEST_WEIGHT = 63
GREATEST_ACTIVATION = 127
# Attention sees places in blocks of so many, the last of them filled up: where a row ends within a vector must not
# depend on what follows (docs/adr/0023).
BLOCK = 64
# A protobuf holds at most 2 GiB; larger weights lie beside the graph.
INLINE_BYTES = 1 << 30


@dataclass(frozen=True)
class Affine:
    """x @ weight + bias; weight [in, out]."""

    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Block:
    attention_norm: Affine
    query: Affine
    key: Affine
    value: Affine
    attention_out: Affine
    mlp_norm: Affine
    # None where the activation is of `up`
    gate: Affine | None
    up: Affine
    down: Affine


@dataclass(frozen=True)
class Backbone:
    embedding: np.ndarray
    blocks: list[Block]
    final_norm: Affine
    heads: int
    key_value_heads: int
    head_size: int
    epsilon: float
    activation: str
    # of RMS norms, not of layer norms
    root_mean_square: bool
    # attention and MLP read the same input and are added together
    parallel: bool = False
    # cosines and sines [context, rotary_size / 2], or learned positions [context, hidden]
    rotary: tuple[np.ndarray, np.ndarray] | None = None
    positions: np.ndarray | None = None


# ---- what the architectures call their parts


def read_backbone(model: nn.Module) -> Backbone | None:
    """None for another architecture, or a variant of one that these graphs do not have."""
    read = {
        "LlamaModel": _read_llama,
        "Qwen2Model": _read_llama,
        "GPT2Model": _read_gpt2,
        "GPTNeoXModel": _read_gpt_neox,
    }.get(type(model).__name__)
    return read(model) if read else None


def _read_llama(model: nn.Module) -> Backbone | None:
    config = model.config
    rotary = _rotary(model)
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if rotary is None or config.hidden_act not in ACTIVATIONS or layer_types != {"full_attention"}:
        return None
    blocks = [
        Block(
            _norm(layer.input_layernorm),
            _linear(layer.self_attn.q_proj),
            _linear(layer.self_attn.k_proj),
            _linear(layer.self_attn.v_proj),
            _linear(layer.self_attn.o_proj),
            _norm(layer.post_attention_layernorm),
            _linear(layer.mlp.gate_proj),
            _linear(layer.mlp.up_proj),
            _linear(layer.mlp.down_proj),
        )
        for layer in model.layers
    ]
    return Backbone(
        _array(model.embed_tokens.weight),
        blocks,
        _norm(model.norm),
        config.num_attention_heads,
        config.num_key_value_heads,
        model.layers[0].self_attn.head_dim,
        config.rms_norm_eps,
        config.hidden_act,
        root_mean_square=True,
        rotary=rotary,
    )


def _read_gpt2(model: nn.Module) -> Backbone | None:
    config = model.config
    plain = config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx and not config.add_cross_attention
    if not plain or config.activation_function not in ACTIVATIONS:
        return None
    conv = lambda layer: Affine(_array(layer.weight), _array(layer.bias))  # noqa: E731 - stored as [in, out]
    blocks = [
        Block(
            _norm(layer.ln_1),
            *_thirds(conv(layer.attn.c_attn)),
            conv(layer.attn.c_proj),
            _norm(layer.ln_2),
            None,
            conv(layer.mlp.c_fc),
            conv(layer.mlp.c_proj),
        )
        for layer in model.h
    ]
    return Backbone(
        _array(model.wte.weight),
        blocks,
        _norm(model.ln_f),
        config.n_head,
        config.n_head,
        config.n_embd // config.n_head,
        config.layer_norm_epsilon,
        config.activation_function,
        root_mean_square=False,
        positions=np.pad(_array(model.wpe.weight), ((0, SPARE), (0, 0))),
    )


def _read_gpt_neox(model: nn.Module) -> Backbone | None:
    config = model.config
    rotary = _rotary(model)
    if rotary is None or config.hidden_act not in ACTIVATIONS:
        return None
    heads = config.num_attention_heads
    size = config.hidden_size // heads

    def qkv(layer: nn.Linear) -> Affine:
        """Stored head by head, each with its query, key and value."""
        apart = lambda a: np.moveaxis(a.reshape(heads, 3, size, -1), 1, 0).reshape(3 * heads * size, -1)  # noqa: E731
        bias = None if layer.bias is None else apart(_array(layer.bias))[:, 0]
        return Affine(np.ascontiguousarray(apart(_array(layer.weight)).T), bias)

    blocks = [
        Block(
            _norm(layer.input_layernorm),
            *_thirds(qkv(layer.attention.query_key_value)),
            _linear(layer.attention.dense),
            _norm(layer.post_attention_layernorm),
            None,
            _linear(layer.mlp.dense_h_to_4h),
            _linear(layer.mlp.dense_4h_to_h),
        )
        for layer in model.layers
    ]
    return Backbone(
        _array(model.embed_in.weight),
        blocks,
        _norm(model.final_layer_norm),
        heads,
        heads,
        size,
        config.layer_norm_eps,
        config.hidden_act,
        root_mean_square=False,
        parallel=config.use_parallel_residual,
        rotary=rotary,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _norm(layer: nn.Module) -> Affine:
    bias = getattr(layer, "bias", None)
    return Affine(_array(layer.weight), None if bias is None else _array(bias))


def _linear(layer: nn.Linear) -> Affine:
    bias = None if layer.bias is None else _array(layer.bias)
    return Affine(np.ascontiguousarray(_array(layer.weight).T), bias)


def _thirds(layer: Affine) -> list[Affine]:
    """Query, key and value that are stored as one."""
    weights = [np.ascontiguousarray(third) for third in np.split(layer.weight, 3, axis=1)]
    biases = [None] * 3 if layer.bias is None else np.split(layer.bias, 3)
    return [Affine(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _rotary(model: nn.Module) -> tuple[np.ndarray, np.ndarray] | None:
    """Cosines and sines of every position; None where they depend on the length, or are no multiple of 8 in number."""
    rotary = model.rotary_emb
    frequencies = rotary.inv_freq.detach().cpu().double().numpy()
    if rotary.rope_type in DYNAMIC_ROTARY or len(frequencies) % 8:
        return None
    angles = np.outer(np.arange(model.config.max_position_embeddings + SPARE), frequencies)
    scaled = lambda a: (a * rotary.attention_scaling).astype(np.float32)  # noqa: E731
    return scaled(np.cos(angles)), scaled(np.sin(angles))


# ---- the graph


@dataclass
class Nodes:
    """Nodes and weights as they are added; every name is that of a value."""

    int8: bool = False
    nodes: list = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    # a value → its rows as bytes, and their scales
    rounded: dict[str, tuple[str, str]] = field(default_factory=dict)

    def weight(self, name: str, array: np.ndarray) -> str:
        """Added once, also where several nodes name it."""
        self.weights.setdefault(name, array)
        return name

    def integers(self, name: str, values: int | list[int]) -> str:
        return self.weight(name, np.array(values, np.int64))

    def add(self, operator: str, inputs: list[str], output: str, *more: str, domain: str = "", **attributes) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output, *more], domain=domain, **attributes))
        return output

    def affine(self, x: str, layer: Affine, name: str, exact: bool = False) -> str:
        """`exact`: not of integers, whatever the graph is of."""
        if self.int8 and not exact:
            product = self._integer_product(x, layer.weight, name)
        else:
            product = self.add("MatMul", [x, self.weight(f"{name}.weight", layer.weight)], f"{name}.product")
        if layer.bias is None:
            return product
        return self.add("Add", [product, self.weight(f"{name}.bias", layer.bias)], name)

    def _integer_product(self, x: str, weight: np.ndarray, name: str) -> str:
        rows, row_scale = self._rounded_rows(x)
        scales = np.maximum(np.abs(weight).max(0), 1e-12) / GREATEST_WEIGHT
        integers = self.weight(f"{name}.weight", np.rint(weight / scales).astype(np.int8))
        scale = self.weight(f"{name}.scale", scales.astype(np.float32))
        centre = self.weight(f"{name}.centre", np.zeros(weight.shape[1], np.int8))
        unit = self.weight("unit", np.array(1, np.float32))
        inputs = [rows, integers, unit, scale, "centre", centre]
        product = self.add("MatMulIntegerToFloat", inputs, f"{name}.of_rows", domain=CONTRIB)
        return self.add("Mul", [product, row_scale], f"{name}.product")

    def _rounded_rows(self, x: str) -> tuple[str, str]:
        """Once, however many products `x` is a part of."""
        if x not in self.rounded:
            centre = self.weight("centre", np.array(128, np.uint8))
            sizes = self.add("Abs", [x], f"{x}.sizes")
            largest = self.add("ReduceMax", [sizes, self.integers("last_axis", [-1])], f"{x}.row_maximum", keepdims=1)
            least = self.weight("least", np.array(1e-12, np.float32))
            kept = self.add("Max", [largest, least], f"{x}.kept_maximum")
            scale = self.add("Div", [kept, self.weight("steps", np.float32(GREATEST_ACTIVATION))], f"{x}.row_scale")
            scales = self.add("Reshape", [scale, self.integers("all", [-1])], f"{x}.row_scales")
            centres = self.add("Expand", [centre, self.add("Shape", [scales], f"{x}.rows")], f"{x}.centres")
            self.rounded[x] = self.add("QuantizeLinear", [x, scales, centres], f"{x}.bytes", axis=1), scale
        return self.rounded[x]


def export_scoring_graph(model: RewardModel, path: Path, int8: bool = False) -> dict | None:
    """Writes the graph and returns its `past`, for finegrain.json; None, and no file, where it cannot be built."""
    backbone = read_backbone(model.model)
    if backbone is None:
        return None
    graph = Nodes(int8)
    _frame(graph, backbone)
    hidden = _embed(graph, backbone)
    residual = hidden
    normed = _norm_alone(graph, backbone, hidden, backbone.blocks[0].attention_norm, "block.0.attention_norm")
    for index, block in enumerate(backbone.blocks):
        name = f"block.{index}"
        last = index + 1 == len(backbone.blocks)
        heads = _attention_heads(graph, backbone, block, normed, index)
        if last:
            heads, residual = _from_first(graph, heads), _from_first(graph, residual)
        attended = graph.affine(heads, block.attention_out, f"{name}.attention.out")
        if backbone.parallel:
            of_mlp = _norm_alone(graph, backbone, residual, block.mlp_norm, f"{name}.mlp_norm")
            both = graph.add("Add", [attended, _mlp(graph, backbone, block, of_mlp, name)], f"{name}.both")
        else:
            of_mlp, residual = _norm_of_sum(graph, backbone, attended, residual, block.mlp_norm, f"{name}.mlp_norm")
            both = _mlp(graph, backbone, block, of_mlp, name)
        following = backbone.final_norm if last else backbone.blocks[index + 1].attention_norm
        normed, residual = _norm_of_sum(graph, backbone, both, residual, following, f"{name}.next_norm")
    _head(graph, model, normed)
    _save(graph, backbone, path)
    return {
        "layers": len(backbone.blocks),
        "key_value_heads": backbone.key_value_heads,
        "head_size": backbone.head_size,
    }


def _embed(graph: Nodes, backbone: Backbone) -> str:
    words = graph.add("Gather", [graph.weight("embedding", backbone.embedding), "input_ids"], "words")
    if backbone.positions is None:
        return words
    table = graph.weight("positions", backbone.positions)
    return graph.add("Add", [words, graph.add("Gather", [table, "places"], "position_embeddings")], "embedded")


def _frame(graph: Nodes, backbone: Backbone) -> None:
    """What all layers share: `places` of the input in the sequence, the `mask` of what each of them sees, and `filling`
    behind keys and values."""
    end = graph.add("Cast", ["length"], "end", to=TensorProto.INT64)
    shape = graph.add("Shape", ["input_ids"], "input_shape", start=1, end=2)
    start = graph.add("Sub", [end, graph.add("Squeeze", [shape], "input_length")], "start")
    one, block = graph.integers("one", 1), graph.integers("block", BLOCK)
    places = graph.add("Range", [start, end, one], "places")
    before_next = graph.add("Add", [end, graph.integers("block_less_one", BLOCK - 1)], "before_next_block")
    filled = graph.add("Mul", [graph.add("Div", [before_next, block], "blocks"), block], "filled_length")
    others = graph.add("Range", [graph.integers("zero", 0), filled, one], "others")
    rows = graph.add("Unsqueeze", [places, graph.integers("last_axis", [-1])], "rows")
    seen = graph.add("LessOrEqual", [others, rows], "seen")
    shown, hidden = graph.weight("shown", np.float32([0])), graph.weight("hidden", np.float32([-np.inf]))
    graph.add("Where", [seen, shown, hidden], "mask")
    first_axis = graph.integers("first_axis", [0])
    graph.add("Unsqueeze", [start, first_axis], "start_place")
    missing = graph.add("Unsqueeze", [graph.add("Sub", [filled, end], "missing"), first_axis], "missing_places")
    heads, size = (
        graph.integers("filling_heads", [1, backbone.key_value_heads]),
        graph.integers("size", [backbone.head_size]),
    )
    graph.add("ConstantOfShape", [graph.add("Concat", [heads, missing, size], "filling_shape", axis=0)], "filling")


def _attention_heads(graph: Nodes, backbone: Backbone, block: Block, normed: str, index: int) -> str:
    """Operator by operator, as GroupQueryAttention takes two to three times as long (docs/adr/0033)."""
    name = f"block.{index}.attention"
    size, heads, shared = backbone.head_size, backbone.heads, backbone.key_value_heads
    query = graph.affine(normed, block.query, f"{name}.query")
    key = graph.affine(normed, block.key, f"{name}.key")
    value = graph.affine(normed, block.value, f"{name}.value")
    if backbone.rotary is not None:
        query, key = _turn_by_place(graph, backbone, query, heads), _turn_by_place(graph, backbone, key, shared)
    query = _heads_first(graph, query, heads, size)
    grouped = heads != shared
    if grouped:  # the queries that share keys and values lie side by side: as more places of one head
        query = graph.add("Reshape", [query, graph.integers("groups", [1, shared, -1, size])], f"{query}.grouped")
    keys, values = (
        graph.add(
            "Concat",
            [f"past_{part}.{index}", _heads_first(graph, new, shared, size, f"new_{part}.{index}"), "filling"],
            f"{name}.{part}s",
            axis=2,
        )
        for part, new in (("key", key), ("value", value))
    )
    scale = size**-0.5
    scores = graph.add("FusedMatMul", [query, keys], f"{name}.scores", domain=CONTRIB, transB=1, alpha=scale)
    if grouped:
        scores = graph.add("Reshape", [scores, graph.integers("by_head", [1, heads, -1, 0])], f"{scores}.by_head")
    shares = graph.add("Softmax", [graph.add("Add", [scores, "mask"], f"{name}.masked")], f"{name}.shares", axis=-1)
    if grouped:
        shares = graph.add("Reshape", [shares, graph.integers("by_group", [1, shared, -1, 0])], f"{shares}.by_group")
    attended = graph.add("MatMul", [shares, values], f"{name}.attended")
    if grouped:
        attended = graph.add("Reshape", [attended, graph.integers("apart", [1, heads, -1, size])], f"{attended}.apart")
    by_place = graph.add("Transpose", [attended], f"{name}.by_place", perm=[0, 2, 1, 3])
    return graph.add("Reshape", [by_place, graph.integers("together", [1, -1, heads * size])], f"{name}.heads")


def _turn_by_place(graph: Nodes, backbone: Backbone, x: str, heads: int) -> str:
    """Rotary positions."""
    cosines, sines = (graph.weight(name, t) for name, t in zip(("cosines", "sines"), backbone.rotary, strict=True))
    rotary_size = 2 * backbone.rotary[0].shape[1]
    return graph.add(
        "RotaryEmbedding",
        [x, "start_place", cosines, sines],
        f"{x}.turned",
        domain=CONTRIB,
        num_heads=heads,
        rotary_embedding_dim=rotary_size if rotary_size < backbone.head_size else 0,
    )


def _heads_first(graph: Nodes, x: str, heads: int, size: int, name: str | None = None) -> str:
    """[1, n, heads * size] -> [1, heads, n, size]"""
    apart = graph.add("Reshape", [x, graph.integers(f"heads.{heads}", [1, -1, heads, size])], f"{x}.heads")
    return graph.add("Transpose", [apart], name or f"{x}.heads_first", perm=[0, 2, 1, 3])


def _from_first(graph: Nodes, x: str) -> str:
    """Of x [1, n, ...] what is at the places from `first` on."""
    everything = graph.integers("everything", [np.iinfo(np.int64).max])
    return graph.add("Slice", [x, "first", everything, graph.integers("place_axis", [1])], f"{x}.from_first")


def _mlp(graph: Nodes, backbone: Backbone, block: Block, normed: str, name: str) -> str:
    name = f"{name}.mlp"
    operator, options = ACTIVATIONS[backbone.activation]
    inner = graph.affine(normed, block.gate or block.up, f"{name}.gate")
    inner = graph.add(operator, [inner], f"{name}.active", domain=CONTRIB, **options)
    if block.gate:
        inner = graph.add("Mul", [inner, graph.affine(normed, block.up, f"{name}.up")], f"{name}.gated")
    return graph.affine(inner, block.down, f"{name}.down")


def _norm_alone(graph: Nodes, backbone: Backbone, x: str, norm: Affine, name: str) -> str:
    operator = "SimplifiedLayerNormalization" if backbone.root_mean_square else "LayerNormalization"
    return graph.add(operator, [x, *_norm_weights(graph, norm, name)], name, axis=-1, epsilon=backbone.epsilon)


def _norm_of_sum(graph: Nodes, backbone: Backbone, x: str, residual: str, norm: Affine, name: str) -> tuple[str, str]:
    """The norm of x + residual, and the sum."""
    operator = "SkipSimplifiedLayerNormalization" if backbone.root_mean_square else "SkipLayerNormalization"
    weights = _norm_weights(graph, norm, name)
    total = f"{name}.sum"
    graph.add(operator, [x, residual, *weights], name, "", "", total, domain=CONTRIB, epsilon=backbone.epsilon)
    return name, total


def _norm_weights(graph: Nodes, norm: Affine, name: str) -> list[str]:
    names = [graph.weight(f"{name}.weight", norm.weight)]
    return names if norm.bias is None else [*names, graph.weight(f"{name}.bias", norm.bias)]


def _head(graph: Nodes, model: RewardModel, normed: str) -> None:
    """The score of each place, of each head in LANES equal columns: what vector instructions compute at the end of an
    array may differ in the last bit from what they compute within, so no value may be at an end in one batch only."""
    weight = np.repeat(_array(model.score.weight).T, LANES, axis=1)
    z = graph.affine(normed, Affine(weight, np.repeat(_array(model.score.bias), LANES)), "score", exact=True)
    rewards = z
    if model.loss == "survival":
        kept = graph.add("Neg", [graph.add("Softplus", [z], "softplus")], "log_survival")
        rewards = graph.add("Max", [kept, graph.weight("clip", np.array(model.clip, np.float32))], "clipped")
    if model.heads > 1:
        rewards = _ensemble(graph, model, rewards)
    graph.add("Gather", [rewards, graph.weight("first_lane", np.array(0, np.int64))], "rewards", axis=-1)


def _ensemble(graph: Nodes, model: RewardModel, rewards: str) -> str:
    """rl_math.ensemble_reward lane by lane: [1, n, heads * LANES] -> [1, n, LANES]."""
    count = graph.weight("heads", np.array(model.heads, np.float32))

    def mean(of_heads: list[str], name: str) -> str:
        return graph.add("Div", [graph.add("Sum", of_heads, f"{name}.sum"), count], name)

    heads = [f"head.{head}" for head in range(model.heads)]
    graph.add("Split", [rewards], *heads, axis=-1, num_outputs=model.heads)
    centre = mean(heads, "heads.mean")
    if model.uncertainty_penalty == 0:
        return centre
    distances = [graph.add("Sub", [head, centre], f"{head}.distance") for head in heads]
    squares = [graph.add("Mul", [distance, distance], f"{distance}.square") for distance in distances]
    deviation = graph.add("Sqrt", [mean(squares, "heads.variance")], "heads.deviation")
    penalty = graph.weight("uncertainty_penalty", np.array(model.uncertainty_penalty, np.float32))
    lowered = graph.add("Sub", [centre, graph.add("Mul", [deviation, penalty], "heads.penalty")], "heads.lowered")
    return graph.add("Max", [lowered, "clip"], "heads.clipped") if model.loss == "survival" else lowered


def _save(graph: Nodes, backbone: Backbone, path: Path) -> None:
    value = helper.make_tensor_value_info
    layers = range(len(backbone.blocks))
    cache = lambda size: [1, backbone.key_value_heads, size, backbone.head_size]  # noqa: E731
    inputs = [
        value("input_ids", TensorProto.INT64, [1, "sequence"]),
        value("length", TensorProto.INT32, []),
        value("first", TensorProto.INT64, [1]),
    ]
    inputs += [value(f"past_{part}.{i}", TensorProto.FLOAT, cache("past")) for i in layers for part in ("key", "value")]
    outputs = [value("rewards", TensorProto.FLOAT, [1, "rewards"])]
    outputs += [
        value(f"new_{part}.{i}", TensorProto.FLOAT, cache("sequence")) for i in layers for part in ("key", "value")
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in graph.weights.items()]
    made = helper.make_graph(graph.nodes, "token_reward", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(made, opset_imports=opsets, producer_name="finegrain", ir_version=10)
    save_graph(model, path)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    beside = sum(weight.ByteSize() for weight in model.graph.initializer) > INLINE_BYTES
    onnx.save(model, str(path), save_as_external_data=beside, location=f"{path.name}.data" if beside else None)
