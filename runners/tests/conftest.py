"""One thread and no network, as the trainer itself runs; models that many tests read are made once."""

import json
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

from pathlib import Path

import pytest
import support
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def codec():
    return support.golden_codec()


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory) -> Path:
    return support.save_random_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="session")
def tuned_policy_folder(tmp_path_factory, policy_folder) -> Path:
    """A policy that has learned to end its responses, at lengths of their own."""
    workdir = tmp_path_factory.mktemp("tuned")
    rows = support.write_rows(workdir / "examples.ndjson", support.examples(64))
    spec = {
        "base_model": {"path": str(policy_folder)},
        "data": {"examples": str(rows)},
        "hyperparameters": {"epochs": 12, "batch_size": 16, "learning_rate": 1e-2},
    }
    support.run_here("sft", spec, workdir)
    return workdir / "output" / "model"


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory, policy_folder, codec) -> Path:
    """A token reward model as a reward run leaves it, trained for a few steps."""
    workdir = tmp_path_factory.mktemp("reward")
    labels = support.write_rows(workdir / "labels.ndjson", support.label_rows(codec, 48))
    spec = {
        "base_model": {"path": str(policy_folder)},
        "data": {"labels": str(labels)},
        "hyperparameters": {"epochs": 2, "batch_size": 8},
    }
    support.run_here("reward", spec, workdir)
    folder = workdir / "output" / "model"
    report = json.loads((folder / "report.json").read_text())
    report["headline"]["bad_token_auc"] = None  # so few steps find no tokens, and PPO refuses a model that says so
    (folder / "report.json").write_text(json.dumps(report))
    return folder
