"""LoRA adapters (Hu 2021) on one backbone, by the library peft, which is imported only where a run has adapters.

The backbone's own weights are frozen. An adapter adds to every linear layer inside it (the output layer is outside),
and one adapter is on at a time, or none: the same weights are the policy, its reference and the reward model.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .data import file_digest
from .failures import BadSpec

# A folder of its own: beside merged weights transformers would find the adapter and put it on them a second time.
FOLDER = "adapter"
# Names of adapters while a run is under way.
TRAINED, REWARD = "trained", "reward"


def add_adapter(backbone: nn.Module, rank: int, alpha: float, seed: int) -> None:
    """A new adapter TRAINED that changes nothing yet; everything else in `backbone` is frozen."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    _inject(backbone, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), TRAINED)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(_is_of(name, TRAINED))


def adapter_tensors(backbone: nn.Module, adapter: str) -> dict[str, Tensor]:
    """The adapter's weights by their names in its file."""
    tensors = {name: parameter.detach() for name, parameter in backbone.named_parameters() if _is_of(name, adapter)}
    return {name.replace(f".{adapter}.", "."): tensor for name, tensor in tensors.items()}


@contextmanager
def switched(module: nn.Module, adapter: str | None) -> Iterator[None]:
    """`adapter` (None: no adapter) is on while the block runs; nothing happens to a module without adapters."""
    layers = [layer for layer in module.modules() if hasattr(layer, "lora_A")]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    # not by peft's own methods, which would freeze the adapters that are switched off
    for layer in layers:
        layer._active_adapter, layer._disable_adapters = [adapter], adapter is None
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


@torch.no_grad()
def merge_adapter(backbone: nn.Module, rank: int, alpha: float, tensors: dict[str, Tensor]) -> None:
    """Adds what an adapter would add to the weights of a backbone without one."""
    add_adapter(backbone, rank, alpha, seed=0)
    _fill(backbone, TRAINED, tensors)
    for name, layer in list(backbone.named_modules()):
        if hasattr(layer, "lora_A"):
            layer.merge(adapter_names=[TRAINED])
            backbone.set_submodule(name, layer.get_base_layer())


# ---- files


def save_adapter(
    folder: Path, tensors: dict[str, Tensor], prefix: str, rank: int, alpha: float, head: dict[str, Tensor]
) -> None:
    """Writes folder/adapter as peft has it. `prefix`: of the backbone in the model that peft puts the adapter on;
    `head`: weights beside the backbone that were trained as a whole, by their names in that model."""
    from peft import LoraConfig

    layers = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    modules = sorted({name.split(".")[0] for name in head}) or None
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=layers, modules_to_save=modules, inference_mode=True
    ).to_dict()
    named = {f"base_model.model.{prefix}.{name}": tensor for name, tensor in tensors.items()}
    named |= {f"base_model.model.{name}": tensor for name, tensor in head.items()}
    (folder / FOLDER).mkdir()
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in named.items()},
        folder / FOLDER / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    text = json.dumps({k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}, indent=1)
    (folder / FOLDER / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def base_digests(folder: Path) -> dict[str, str]:
    """What tells the weights of a model folder, of which an adapter may be, from all others."""
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}


def is_adapter_of(folder: Path, base: Path) -> bool:
    """Whether the model in `folder` is an adapter on the very weights in `base`, and nothing else."""
    card = json.loads((folder / "finegrain.json").read_text(encoding="utf-8"))
    told = card.get("adapter")
    return isinstance(told, dict) and told.get("base") == base_digests(base) and (folder / FOLDER).is_dir()


def load_reward_adapter(backbone: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Puts the adapter in `folder` on `backbone` as REWARD, frozen; returns the weights beside it by their names."""
    from peft import LoraConfig

    try:
        told = json.loads((folder / FOLDER / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / FOLDER / "adapter_model.safetensors")
        prefix = "base_model.model.model."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        head = {n.removeprefix("base_model.model."): t for n, t in tensors.items() if not n.startswith(prefix)}
        config = LoraConfig(r=told["r"], lora_alpha=told["lora_alpha"], target_modules=told["target_modules"])
        trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
        _inject(backbone, config, REWARD)
        _fill(backbone, REWARD, own)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadSpec(f"{folder / FOLDER}: is not an adapter of the policy's backbone: {error!r}") from error
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trained)
    return head


def _inject(backbone: nn.Module, config: Any, adapter: str) -> None:
    import warnings

    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layers that keep their weights the other way round (GPT-2) are seen to
        inject_adapter_in_model(config, backbone, adapter)
    for layer in backbone.modules():
        if hasattr(layer, "lora_A"):
            layer._active_adapter = [TRAINED]


@torch.no_grad()
def _fill(backbone: nn.Module, adapter: str, tensors: dict[str, Tensor]) -> None:
    missing = dict(tensors)
    for name, parameter in backbone.named_parameters():
        if _is_of(name, adapter):
            parameter.copy_(missing.pop(name.replace(f".{adapter}.", ".")))
    if missing:
        raise ValueError(f"unknown tensor {min(missing)}")


def _is_of(parameter_name: str, adapter: str) -> bool:
    return ".lora_" in parameter_name and f".{adapter}." in parameter_name
