"""A checkpoint is whole or absent, and the newest whole one is taken up."""

import json
import os

import pytest
import torch
from torch import nn

from finegrain_trainer.checkpoint import (
    CheckpointStore,
    restore_training,
    training_tensors,
)
from finegrain_trainer.failures import BadSpec
from finegrain_trainer.protocol import Reporter


@pytest.fixture
def lines(tmp_path):
    """A reporter and a function that returns what it has said."""
    path = tmp_path / "lines"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield Reporter(descriptor), lambda: [json.loads(line) for line in path.read_text().splitlines()]
    os.close(descriptor)


@pytest.fixture
def store(tmp_path, lines):
    return CheckpointStore(tmp_path, {"run": 1}, lines[0])


def save(store: CheckpointStore, step: int) -> None:
    store.save(step, {"x": torch.full((3,), float(step))}, {"step": step})


def test_what_was_saved_comes_back(store, lines, tmp_path):
    assert store.latest() is None
    save(store, 5)
    checkpoint = store.latest()
    assert (checkpoint.step, checkpoint.state, checkpoint.tensors["x"].tolist()) == (5, {"step": 5}, [5.0] * 3)
    said = lines[1]()[0]
    assert (said["type"], said["step"], said["path"]) == ("checkpoint", 5, "checkpoints/step-00000005")
    assert said["digest"].startswith("sha256:")
    assert (tmp_path / said["path"] / "manifest.json").is_file()


def test_only_the_last_two_are_kept(store, tmp_path):
    for step in (1, 2, 3):
        save(store, step)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_a_damaged_checkpoint_is_passed_over(store, lines, tmp_path, name, damage):
    save(store, 1)
    save(store, 2)
    damage(tmp_path / "checkpoints/step-00000002" / name)
    assert store.latest().step == 1
    assert any("step-00000002 is damaged" in line.get("message", "") for line in lines[1]())
    save(store, 2)
    assert store.latest().step == 2


def test_what_a_killed_writer_left_behind_is_no_checkpoint_and_in_nobodys_way(store, tmp_path):
    save(store, 1)
    left = tmp_path / "checkpoints" / ".writing"
    left.mkdir()
    (left / "tensors.safetensors").write_text("half")
    assert store.latest().step == 1
    save(store, 2)
    assert store.latest().step == 2


def test_checkpoints_of_another_run_are_refused(store, tmp_path, lines):
    save(store, 1)
    with pytest.raises(BadSpec, match="another spec or other data"):
        CheckpointStore(tmp_path, {"run": 2}, lines[0]).latest()


def test_a_restored_optimizer_goes_on_bit_for_bit():
    def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        module(torch.full((2, 4), float(number))).square().sum().backward()
        optimizer.step()

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        return module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)

    module, optimizer = build()
    for number in range(3):
        step(module, optimizer, number)
    kept = {name: tensor.detach().clone() for name, tensor in training_tensors(module, optimizer).items()}
    step(module, optimizer, 3)
    again, other = build()
    restore_training(again, other, kept)
    step(again, other, 3)
    for a, b in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
