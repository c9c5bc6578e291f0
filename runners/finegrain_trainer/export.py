"""ONNX export of a token reward model, refused unless it computes what PyTorch computes.

Graph: `input_ids` int64 [batch, sequence] -> `rewards` float32 [batch, sequence]. Causal: right padding
needs no mask.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from .batching import collate
from .data import Prompt
from .failures import ExportMismatch
from .models import RewardModel
from .prompt_format import TextCodec

TOLERANCE = 1e-4
# A protobuf holds at most 2 GiB; larger weights lie beside the graph.
INLINE_BYTES = 1 << 30


def export_onnx(model: RewardModel, path: Path) -> None:
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
            rewards = model.response_rewards([prompt_ids], [token_ids]).tolist()
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
    """Largest difference between ONNX Runtime and PyTorch over several lengths and a padded batch.

    Raises ExportMismatch above TOLERANCE.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batch = collate(
        [item["prompt_token_ids"] for item in items], [item["token_ids"] for item in items], model.score.weight.device
    )
    real = torch.arange(batch.ids.shape[1])[None] < torch.tensor(
        [[len(item["prompt_token_ids"]) + len(item["token_ids"])] for item in items]
    )
    whole = (torch.arange(context_length) % model.model.config.vocab_size)[None]
    cases = [
        (row[keep][None], torch.ones(1, int(keep.sum()), dtype=torch.bool))
        for row, keep in zip(batch.ids.cpu(), real, strict=True)
    ]
    cases += [(batch.ids.cpu(), real)]
    cases += [(whole[:, :n], torch.ones(1, n, dtype=torch.bool)) for n in {1, 2, context_length // 2, context_length}]

    def difference(ids: Tensor, mask: Tensor) -> float:
        with torch.no_grad():
            expected = model(ids.to(model.score.weight.device)).cpu()
        actual = torch.from_numpy(np.asarray(session.run(["rewards"], {"input_ids": ids.numpy()})[0]))
        return float((actual - expected)[mask].abs().max())

    worst = max(difference(ids, mask) for ids, mask in cases)
    if not worst <= TOLERANCE:  # also true of NaN
        raise ExportMismatch(f"ONNX and PyTorch differ by {worst:.2g}; at most {TOLERANCE:g} is accepted")
    return worst
