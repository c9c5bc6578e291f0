"""The int8 mode is offered where it ranks tokens as float32 does, and leaves nothing behind where it does not."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, LlamaConfig, MistralConfig

from finegrain_trainer.export import export_onnx, graph_rewards, open_graph
from finegrain_trainer.int8 import FILE, Example, add_int8
from finegrain_trainer.metrics import rank_correlation
from finegrain_trainer.models import RewardModel

SHAPE = {
    "vocab_size": 300, "hidden_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 160,
    "intermediate_size": 144, "num_attention_heads": 6, "num_key_value_heads": 2,
}  # fmt: skip


def reward_model(config=LlamaConfig) -> RewardModel:
    torch.manual_seed(1)
    model = RewardModel(AutoModel.from_config(config(**SHAPE)), "survival", -4.0).eval().requires_grad_(False)
    model.score.weight.mul_(20)
    return model


def examples() -> list[Example]:
    rng = np.random.default_rng(1)
    ids = lambda n: rng.integers(300, size=n).tolist()  # noqa: E731
    return [Example(ids(9), ids(40), rng.integers(2, size=40).tolist()) for _ in range(12)]


def golden() -> dict:
    return {
        "tolerance": 1e-4,
        "items": [{"prompt_token_ids": e.prompt_ids, "token_ids": e.token_ids} for e in examples()],
    }


def test_it_is_offered_with_what_was_measured_and_rewards_to_check_it_by(tmp_path):
    model, written = reward_model(), golden()
    export_onnx(model, tmp_path / "reward.onnx")
    said = add_int8(model, tmp_path, written, examples())
    assert said["file"] == FILE
    assert 0.995 <= said["rank_correlation"] < 1
    assert abs(said["bad_token_auc_difference"]) <= 0.005
    assert said["tokens"] == 12 * 40
    session, example = open_graph(tmp_path / FILE), examples()[3]
    rewards = graph_rewards(session, np.array(example.prompt_ids + example.token_ids))[9:]
    assert written["int8"]["rewards"][3] == rewards.tolist()


def test_a_model_that_integers_confuse_is_not_offered_in_them(tmp_path):
    model, written = reward_model(), golden()
    for layer in model.model.layers:  # one weight that makes all others of its column small
        layer.mlp.down_proj.weight[:, 0] = 40
    export_onnx(model, tmp_path / "reward.onnx")
    said = add_int8(model, tmp_path, written, examples())
    assert said["file"] is None
    assert said["rank_correlation"] < 0.995
    assert not (tmp_path / FILE).exists()
    assert "int8" not in written


def test_a_graph_that_cannot_be_built_is_not_offered(tmp_path):
    assert add_int8(reward_model(MistralConfig), tmp_path, golden(), examples()) == {"file": None}
    assert not list(tmp_path.iterdir())


def test_equal_values_share_their_rank():
    assert rank_correlation(np.array([1.0, 2, 2, 3]), np.array([5.0, 6, 6, 9])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 2])) == pytest.approx(0.5)
    assert rank_correlation(np.array([1.0, 1]), np.array([1.0, 2])) is None
