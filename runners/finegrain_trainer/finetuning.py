"""Which weights of a model a run trains, all or an adapter's, and what is left of it in the end.

That is a model folder like any other, whole and in float32, merged with the adapter where there is one. A LoRA run
leaves its adapter beside the weights, and finegrain.json names those that the adapter belongs to.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from .adapters import TRAINED, adapter_tensors, add_adapter, base_digests, merge_adapter, save_adapter
from .memory import check_fits
from .models import LanguageModel, RewardModel, load_policy, recompute_layers, store_frozen, write_json
from .parallel import collected, is_first, process_count
from .spec import DpoOptions, LocalModel, PpoOptions, RewardOptions, SftOptions

CPU = torch.device("cpu")
Options = SftOptions | RewardOptions | DpoOptions | PpoOptions


def prepare(model: LanguageModel, options: Options, seed: int, device: torch.device) -> None:
    """Lets gradients flow to what is to be trained, with as little memory as the options say.

    Raises OutOfMemory for a model that cannot fit on a GPU, before it has been tried.
    """
    network = model.network
    network.requires_grad_(not options.lora_rank)
    if options.lora_rank:
        add_adapter(network.base_model, options.lora_rank, options.lora_alpha, seed)
        store_frozen(network, options.precision)
    if options.gradient_checkpointing:
        recompute_layers(network.base_model, model.folder)
    if device.type == "cuda":
        trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        available = torch.cuda.get_device_properties(device).total_memory
        check_fits(sum(p.numel() for p in network.parameters()), trained, options, process_count(), available)


@dataclass(frozen=True)
class Finished:
    """`model`: the trained network, whole and merged. `adapter`: its weights by name, none after full fine-tuning;
    `base`: the folder that it belongs to."""

    model: LanguageModel
    adapter: dict[str, Tensor]
    base: Path
    options: Options

    def save_adapter(self, folder: Path, prefix: str, head: dict[str, Tensor] | None = None) -> None:
        """Adds the adapter, if there is one, to the model in `folder`. `prefix`, `head`: see adapters.save_adapter."""
        if not self.adapter:
            return
        rank, alpha = self.options.lora_rank, self.options.lora_alpha
        save_adapter(folder, self.adapter, prefix, rank, alpha, head or {})
        card = json.loads((folder / "finegrain.json").read_text(encoding="utf-8"))
        write_json(folder / "finegrain.json", card | {"adapter": {"base": base_digests(self.base)}})


def finish(model: LanguageModel, options: Options) -> Finished | None:
    """What training has made of `model`; None in the processes that write nothing. All of them must ask."""
    network = model.network
    if options.lora_rank:
        adapter = collected(adapter_tensors(network.base_model, TRAINED))
        if not is_first():
            return None
        # from the file, as what is frozen may have been kept in bfloat16
        merged = load_policy(LocalModel(model.folder), CPU).network
        merge_adapter(merged.base_model, options.lora_rank, options.lora_alpha, adapter)
        return Finished(replace(model, network=merged), adapter, model.folder, options)
    if process_count() == 1:
        return Finished(model, {}, model.folder, options)
    tensors = collected(dict(network.named_parameters()))
    if not is_first():
        return None
    alone = AutoModelForCausalLM.from_config(network.config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in alone.named_parameters():
            parameter.copy_(tensors[name])
    return Finished(replace(model, network=alone), {}, model.folder, options)


def finished_reward_model(model: RewardModel, finished: Finished | None, head: dict[str, Tensor]) -> RewardModel | None:
    """The reward model on a finished backbone; `head`: the weights of its scalar head, whole."""
    if finished is None:
        return None
    backbone = finished.model.network.base_model
    if backbone is model.model:
        return model
    alone = RewardModel(backbone, model.loss, model.clip, model.heads, model.uncertainty_penalty)
    alone.score.load_state_dict(head)
    return alone.eval()
