"""The graph that is built for scoring computes what PyTorch computes, in one piece and from a past."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config

from finegrain_trainer.export import export_onnx, graph_rewards, open_graph
from finegrain_trainer.models import RewardModel
from finegrain_trainer.scoring_graph import export_scoring_graph

VOCABULARY, CONTEXT = 300, 160
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 96, "num_hidden_layers": 2, "max_position_embeddings": CONTEXT}
LLAMA = {**SHAPE, "intermediate_size": 144, "num_attention_heads": 6, "num_key_value_heads": 2}
LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
NEOX = {**SHAPE, "intermediate_size": 144}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}

ARCHITECTURES = {
    "llama": LlamaConfig(**LLAMA),
    "llama with biases and longer rotary waves": LlamaConfig(
        **LLAMA, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA_3
    ),
    "qwen2": Qwen2Config(**LLAMA),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=96, n_layer=2, n_head=6, n_positions=CONTEXT, **TOKENS),
    "gpt-neox, a quarter rotary": GPTNeoXConfig(
        **{**NEOX, "hidden_size": 128}, num_attention_heads=2, rotary_pct=0.25, **TOKENS
    ),
    "gpt-neox, one after the other": GPTNeoXConfig(
        **NEOX, num_attention_heads=3, rotary_pct=1.0, use_parallel_residual=False, **TOKENS
    ),
}
OTHERS = {
    "another architecture": MistralConfig(**LLAMA),
    "attention to a window": Qwen2Config(**LLAMA, use_sliding_window=True, max_window_layers=0, sliding_window=8),
    "fewer than 16 rotary dimensions": LlamaConfig(**{**LLAMA, "num_attention_heads": 12}),
}


def reward_model(config, heads: int = 1, penalty: float = 0.0) -> RewardModel:
    torch.manual_seed(1)
    backbone = AutoModel.from_config(config)
    model = RewardModel(backbone, "survival", -4.0, heads, penalty).eval().requires_grad_(False)
    for parameter in model.parameters():  # biases and norms too, which begin at 0 and 1
        parameter += torch.randn_like(parameter) * 0.1
    return model


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_it_computes_what_pytorch_computes(config, tmp_path):
    model = reward_model(config)
    said = export_onnx(model, tmp_path / "reward.onnx")
    assert said["past"]["layers"] == 2
    session = open_graph(tmp_path / "reward.onnx")
    ids = torch.randint(0, VOCABULARY, (CONTEXT,), generator=torch.Generator().manual_seed(2))
    expected = model(ids[None])[0].numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(graph_rewards(session, ids.numpy()), expected, atol=2e-5)
    np.testing.assert_allclose(graph_rewards(session, ids.numpy(), 70), expected, atol=2e-5)


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_with_integers_it_computes_nearly_that(config, tmp_path):
    model = reward_model(config)
    export_scoring_graph(model, tmp_path / "reward.onnx", int8=True)
    ids = torch.randint(0, VOCABULARY, (CONTEXT,), generator=torch.Generator().manual_seed(2))
    expected = model(ids[None])[0].numpy()
    rewards = graph_rewards(open_graph(tmp_path / "reward.onnx"), ids.numpy())
    assert np.corrcoef(rewards, expected)[0, 1] > 0.99
    assert (rewards != expected).any()


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("config", [ARCHITECTURES["llama"], ARCHITECTURES["gpt2"]], ids=["llama", "gpt2"])
def test_a_reward_does_not_depend_on_what_follows_or_on_how_the_past_was_computed(config, int8, tmp_path):
    """To the last bit, where no piece has one token: products with one row are computed otherwise."""
    export_scoring_graph(reward_model(config), tmp_path / "reward.onnx", int8)
    session = open_graph(tmp_path / "reward.onnx")
    ids = np.random.default_rng(3).integers(0, VOCABULARY, CONTEXT)
    whole = graph_rewards(session, ids)
    for cut in range(2, CONTEXT - 1):
        np.testing.assert_array_equal(graph_rewards(session, ids[:cut]), whole[:cut])
        np.testing.assert_array_equal(graph_rewards(session, ids, first=cut), whole[cut:])
        np.testing.assert_array_equal(graph_rewards(session, ids, cut), whole)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_with_several_heads_that_holds_too(int8, tmp_path):
    model = reward_model(ARCHITECTURES["llama"], heads=3, penalty=1.0)
    export_scoring_graph(model, tmp_path / "reward.onnx", int8)
    session = open_graph(tmp_path / "reward.onnx")
    ids = np.random.default_rng(3).integers(0, VOCABULARY, CONTEXT)
    whole = graph_rewards(session, ids)
    if not int8:
        np.testing.assert_allclose(whole, model(torch.from_numpy(ids)[None])[0].numpy(), atol=2e-5)
    for cut in range(2, CONTEXT - 1, 5):
        np.testing.assert_array_equal(graph_rewards(session, ids[:cut]), whole[:cut])
        np.testing.assert_array_equal(graph_rewards(session, ids, first=cut), whole[cut:])
        np.testing.assert_array_equal(graph_rewards(session, ids, cut), whole)


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_what_it_has_no_operators_for_is_left_to_the_standard_exporter(config, tmp_path):
    assert export_scoring_graph(reward_model(config), tmp_path / "reward.onnx") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_standard_exporter_takes_its_place(tmp_path):
    model = reward_model(MistralConfig(**LLAMA), heads=3, penalty=1.0)
    assert "past" not in export_onnx(model, tmp_path / "reward.onnx")
    session = open_graph(tmp_path / "reward.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, given.name) == ("input_ids", "rewards")
    assert all(isinstance(size, str) for size in (*taken.shape, *given.shape))
    ids = torch.randint(0, VOCABULARY, (40,), generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(graph_rewards(session, ids.numpy()), model(ids[None])[0].numpy(), atol=2e-5)
