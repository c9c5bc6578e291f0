"""Checkpoints that are complete or absent: written aside, synced, renamed; a manifest of SHA-256 says what is intact.

A checkpoint holds all that the rest of a run depends on, so that a run killed at any instant and resumed ends with the
same bits. Tensors lie in safetensors, everything else in JSON; nothing is pickled.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .data import file_digest
from .failures import BadSpec
from .parallel import collected, first_goes_first, is_first, shard_like
from .protocol import Reporter

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run in `workdir`/checkpoints; `identity` says which run (spec and data) they belong to."""

    def __init__(self, workdir: Path, identity: dict[str, Any], reporter: Reporter):
        self._folder = workdir / "checkpoints"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._reporter = reporter

    def latest(self, required: bool = False) -> Checkpoint | None:
        """The newest intact checkpoint; damaged ones are removed. Raises BadSpec on those of another run."""
        with first_goes_first():
            return self._latest(required)

    def _latest(self, required: bool) -> Checkpoint | None:
        for path in sorted(self._folder.glob("step-*"), reverse=True):
            manifest = _intact_manifest(path)
            if manifest is None:
                self._reporter.log(f"{path.name} is damaged and is removed", level="warning")
                shutil.rmtree(path)
                continue
            if manifest["identity"] != self._identity:
                raise BadSpec(f"{path} belongs to a run with another spec or other data; use an empty workdir")
            state = json.loads((path / "state.json").read_text())
            self._reporter.resumed(manifest["step"])
            return Checkpoint(manifest["step"], load_file(path / "tensors.safetensors"), state)
        if required:
            raise BadSpec("finish_at_checkpoint: the workdir has no intact checkpoint")
        return None

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Writes a checkpoint, in the place of one of the same step, reports it and drops all but the newest KEEP: the
        first process does, for all."""
        if not is_first():
            return
        aside, final = self._folder / ".writing", self._folder / f"step-{step:08d}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            aside / "tensors.safetensors",
        )
        (aside / "state.json").write_text(json.dumps(state, allow_nan=False))
        files = {path.name: file_digest(path) for path in sorted(aside.iterdir())}
        manifest = json.dumps({"format": 1, "step": step, "identity": self._identity, "files": files}, indent=1)
        (aside / "manifest.json").write_text(manifest)
        for path in aside.iterdir():
            sync(path)
        sync(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        sync(self._folder)
        digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
        self._reporter.checkpoint(step, f"checkpoints/{final.name}", digest)
        for old in sorted(self._folder.glob("step-*"))[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What training has changed, whole: trained parameters by name (tied ones once), the optimizer's moments and step
    counts. Where processes share the weights only the first one gets them."""
    tensors = {f"weights.{name}": p for name, p in module.named_parameters() if p.requires_grad}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
    return collected(tensors)


@torch.no_grad()
def restore_training(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of training_tensors; values are copied into memory laid out as in an undisturbed run."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(shard_like(parameter, tensors[f"weights.{name}"]))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state_dict = optimizer.state_dict()
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            own = tensor if name == "step" else shard_like(trained[int(index)], tensor)
            state_dict["state"].setdefault(int(index), {})[name] = own.clone()
    optimizer.load_state_dict(state_dict)


def _intact_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if all(file_digest(path / name) == digest for name, digest in manifest["files"].items()):
            return manifest
    except (OSError, ValueError, KeyError):
        pass
    return None
