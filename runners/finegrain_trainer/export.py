"""ONNX export of a reward model, refused unless it computes what PyTorch computes.

The graph is that of scoring_graph.py where the architecture is one of its own, else what PyTorch's exporter makes:
`input_ids` int64 [batch, sequence] -> `rewards` float32 [batch, sequence], causal, right padding needs no mask.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from .data import Prompt
from .failures import ExportMismatch
from .models import RewardModel
from .prompt_format import TextCodec
from .scoring_graph import INLINE_BYTES, export_scoring_graph

TOLERANCE = 1e-4


def export_onnx(model: RewardModel, path: Path, standard: bool = False) -> dict[str, Any]:
    """Writes the graph and returns what finegrain.json says of it, `past` where keys and values come in and out."""
    past = None if standard else export_scoring_graph(model, path)
    if past is None:
        export_standard_graph(model, path)
    said = {"file": path.name, "input": "input_ids", "output": "rewards"}
    return said if past is None else {**said, "past": past}


def export_standard_graph(model: RewardModel, path: Path) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    example = torch.zeros(2, 8, dtype=torch.long, device=model.score.weight.device)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=True,
            input_names=["input_ids"],
            output_names=["rewards"],
            dynamic_shapes={"input_ids": sizes},
            external_data=parameters * 4 > INLINE_BYTES,
            verbose=False,
        )
    remove_traces(path)


def remove_traces(path: Path) -> None:
    """Takes out the stack traces that the exporter writes into every node: paths of this machine."""
    graph = onnx.load(str(path), load_external_data=False)
    for part in (*graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        del part.metadata_props[:]
    onnx.save(graph, str(path))


def golden_items(
    model: RewardModel, codec: TextCodec, texts: list[tuple[Prompt, Any, str]], context_length: int
) -> list[dict[str, Any]]:
    """Prompts and responses with their ids and PyTorch's rewards: what every program that loads the model checks.

    `texts`: (prompt, prompt as it is written in JSON, response); those that do not fit the context are left out.
    """
    items = []
    for prompt, raw_prompt, response in texts:
        prompt_ids, token_ids = codec.prompt_ids(prompt), codec.response_ids(response)
        if len(prompt_ids) + len(token_ids) <= context_length:
            rewards = model.response_readings([prompt_ids], [token_ids]).tolist()
            items.append(
                {
                    "prompt": raw_prompt,
                    "response": response,
                    "prompt_token_ids": prompt_ids,
                    "token_ids": token_ids,
                    "rewards": rewards,
                }
            )
    return items


def check_parity(model: RewardModel, path: Path, items: list[dict[str, Any]], context_length: int) -> float:
    """Largest difference between ONNX Runtime and PyTorch over several lengths, at once and with a past.

    Raises ExportMismatch above TOLERANCE.
    """
    session = open_graph(path)
    whole = torch.arange(context_length) % model.model.config.vocab_size
    texts = [torch.tensor(item["prompt_token_ids"] + item["token_ids"]) for item in items]
    sequences = texts + [whole[:n] for n in sorted({1, 2, context_length // 2, context_length})]

    def difference(ids: Tensor) -> float:
        with torch.no_grad():
            expected = model(ids[None].to(model.score.weight.device))[0].cpu().numpy()
        whole = np.abs(graph_rewards(session, ids.numpy()) - expected).max()
        parts = np.abs(graph_rewards(session, ids.numpy(), len(ids) // 2) - expected).max()
        return float(max(whole, parts))

    worst = max(difference(ids) for ids in sequences)
    if not worst <= TOLERANCE:  # also true of NaN
        raise ExportMismatch(f"ONNX and PyTorch differ by {worst:.2g}; at most {TOLERANCE:g} is accepted")
    return worst


def open_graph(path: Path) -> Any:
    """A session as scorers have (src/scoring/reward-graph.ts)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def graph_rewards(session: Any, ids: np.ndarray, cut: int = 0, first: int = 0) -> np.ndarray:
    """Rewards [n] of ids [n]. Where the graph takes a past, the first `cut` ids are given as one, and of each piece the
    rewards before `first` are left out."""
    names = [given.name for given in session.get_outputs()]
    shapes = {taken.name: taken.shape for taken in session.get_inputs()}
    past = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items() if "past" in name}
    if not past:
        return session.run(["rewards"], {"input_ids": ids[None]})[0][0]
    rewards, done = [], 0
    for part in filter(len, (ids[:cut], ids[cut:])):
        done += len(part)
        feed = {"input_ids": part[None], "length": np.array(done, np.int32), "first": np.array([first])}
        given = dict(zip(names, session.run(names, {**feed, **past}), strict=True))
        rewards.append(given.pop("rewards")[0])
        past = {name.replace("new", "past"): value for name, value in given.items()}
    return np.concatenate(rewards)
