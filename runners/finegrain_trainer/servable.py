"""A reward model in safetensors, as the trainer saves it, made servable: with reward.onnx, golden.json and a
finegrain.json that names the graph: the end of a reward run, for weights that were trained or changed elsewhere.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .checkpoint import sync
from .data import Message, Prompt, read_texts
from .export import TOLERANCE, check_parity, export_onnx, golden_items
from .failures import BadSpec
from .int8 import Example, add_int8
from .models import RewardModel, load_reward_model, write_json
from .prompt_format import TextCodec

FILES = ("config.json", "model.safetensors", "tokenizer.json")
# What tokenizers trip over, and a text of every day.
RESPONSES = (
    "The harbor bridge was opened in 1932, and it carries trains, cars and people.",
    "",
    "\r\n  spaces\tand lines\n",
    "naïve 👩‍👩‍👧 日本語",
    "<|eos|><|user|></s><pad>",
)


@dataclass(frozen=True)
class Graphs:
    """`onnx`: what finegrain.json says of them; `difference`: the largest between PyTorch and the float32 graph."""

    onnx: dict[str, Any]
    difference: float
    golden_items: int


def write_graphs(
    model: RewardModel,
    folder: Path,
    codec: TextCodec,
    texts: list[tuple[Prompt, Any, str]],
    context_length: int,
    examples: list[Example] | None = None,
    standard: bool = False,
) -> Graphs:
    """reward.onnx, reward.int8.onnx where it is good enough, and golden.json with the `texts`.

    `examples`: what int8 is judged by; the texts unless given. Raises ExportMismatch; BadSpec when no text fits.
    """
    onnx = export_onnx(model, folder / "reward.onnx", standard)
    items = golden_items(model, codec, texts, context_length)
    if not items:
        raise BadSpec(f"the model reads {context_length} tokens, too few for any text of golden.json")
    difference = check_parity(model, folder / "reward.onnx", items, context_length)
    golden = {"tolerance": TOLERANCE, "items": items}
    if not standard and model.role == "token_reward":  # int8 is judged by how it ranks tokens
        judged = examples or [Example(item["prompt_token_ids"], item["token_ids"]) for item in items]
        onnx["int8"] = add_int8(model, folder, golden, judged)
    write_json(folder / "golden.json", golden)
    return Graphs(onnx, difference, len(items))


def make_servable(model_folder: Path, output: Path, texts: Path | None, standard: bool = False) -> dict[str, Any]:
    """Fills the new folder `output`; says how far graph and PyTorch differ. Raises ExportMismatch for more.

    `standard`: a graph without a past, of operators that ONNX Runtime has on CUDA, too; int8 is for CPUs and left out.
    """
    if output.exists():
        raise BadSpec(f"{output}: is there already; name a new folder")
    for name in (*FILES, "finegrain.json"):
        if not (model_folder / name).is_file():
            raise BadSpec(f"{model_folder}/{name}: is missing")
    model, card, codec = load_reward_model(model_folder, torch.device("cpu"))
    told = read_texts(texts) if texts else []
    own: list[tuple[Prompt, Any, str]] = [((Message("user", "Hi"),), "Hi", text) for text in RESPONSES]

    aside = output.with_name(f".{output.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    graphs = write_graphs(model, aside, codec, told + own, card.context_length, standard=standard)
    for name in FILES:
        shutil.copyfile(model_folder / name, aside / name)
    written = json.loads((model_folder / "finegrain.json").read_text(encoding="utf-8"))
    write_json(aside / "finegrain.json", {**written, "onnx": graphs.onnx})
    for path in aside.iterdir():
        sync(path)
    aside.rename(output)
    return {
        "folder": str(output),
        "onnx_difference": graphs.difference,
        "golden_items": graphs.golden_items,
        "int8": graphs.onnx.get("int8"),
    }
