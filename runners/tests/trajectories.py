"""The first updates of each kind of run, as numbers: loss and gradient norm of each, and what the run reports.

    cd runners && PYTHONPATH=. python tests/trajectories.py

writes trajectories.json anew, after a change that is meant to change the mathematics. test_trajectories.py compares.
"""

import importlib
import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from support import (
    CPU,
    save_random_policy,
    save_random_reward_model,
    two_hunk_rows,
    world_row,
    write_rows,
)

from finegrain_trainer.protocol import Reporter, StopRequest
from finegrain_trainer.spec import SEQUENCE_LOSSES, TOKEN_LOSSES, parse_spec

PINNED = Path(__file__).parent / "trajectories.json"
UPDATES = 6
# so fast that whatever changes an update is seen in the next one
FAST = {"learning_rate": 5e-3, "warmup_steps": 1}
PPO = {"steps": 3, "batch_size": 8, "epochs": 2, "minibatches": 1, "max_new_tokens": 16, "scale_samples": 16}
PPO_VARIANTS = {
    "ppo, shared critic": {"critic": "shared"},
    "ppo, separate critic": {"critic": "separate"},
    "ppo, leave one out": {"advantage": "leave_one_out", "samples_per_prompt": 4},
    "ppo, rewards at the end": {"reward_placement": "end", "mu": "zero"},
}
CASES = ["sft", *(f"reward, {loss}" for loss in TOKEN_LOSSES + SEQUENCE_LOSSES), *PPO_VARIANTS]
# of the machine, and what is a difference of nearly equal numbers at the start
LEFT_OUT = ("tokens_per_second", "approx_kl")


def trajectory(case: str, folder: Path) -> dict:
    """`folder` is new and empty. Models have random weights, so that nothing depends on a training before."""
    kind = case.split(",")[0]
    policy = save_random_policy(folder / "policy")
    rng = random.Random(5)
    rows = [dict(zip(("prompt", "response"), world_row(rng)[::2], strict=True)) for _ in range(UPDATES * 8)]
    examples = [{"id": f"x{i}", "split": "train", **row} for i, row in enumerate(rows)]
    prompts = [{"id": f"q{i}", "prompt": row["prompt"]} for i, row in enumerate(rows)]
    spec = {
        "sft": {
            "base_model": {"path": str(policy)},
            "data": {"examples": str(write_rows(folder / "examples.ndjson", examples))},
            "hyperparameters": {"epochs": 1, "batch_size": 8, **FAST},
        },
        "reward": {
            "base_model": {"path": str(policy)},
            "loss": case.split(", ")[-1],
            "data": {"labels": str(write_rows(folder / "labels.ndjson", two_hunk_rows(UPDATES * 4)))},
            "hyperparameters": {"epochs": 1, "batch_size": 4, **FAST},
        },
        "ppo": {
            "policy": {"path": str(policy)},
            "reward_model": {"path": str(folder / "reward")},
            "data": {"prompts": str(write_rows(folder / "prompts.ndjson", prompts))},
            "hyperparameters": {**PPO, **PPO_VARIANTS.get(case, {})},
        },
    }[kind]
    if kind == "ppo":
        save_random_reward_model(policy, folder / "reward")
    return record(kind, spec, folder / "work")


def record(kind: str, spec: dict, workdir: Path) -> dict:
    """Loss and gradient norm of each update, and the metrics of each report by step, while the spec's run trains."""
    workdir.mkdir()
    module = importlib.import_module(f"finegrain_trainer.{kind}")
    updates: list[list[float]] = []
    metrics: list[dict] = []

    def descend(*arguments, own: Callable = module.descend) -> dict:
        figures = own(*arguments)
        updates.append([figures["loss"], figures["grad_norm"]])
        return figures

    class Keeping(Reporter):
        def metrics(self, step: int, values: dict) -> None:
            told = {n: v for n, v in values.items() if n not in LEFT_OUT and v is not None}
            metrics.append({"step": step, **told})

    with patch.object(module, "descend", descend), open(os.devnull, "wb") as nowhere:
        module.run(parse_spec(spec, kind, workdir), workdir, CPU, Keeping(nowhere.fileno()), StopRequest())
    return {"updates": updates, "metrics": metrics}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    pinned = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            pinned[case] = trajectory(case, Path(folder))
    PINNED.write_text(json.dumps(pinned, indent=1) + "\n")
