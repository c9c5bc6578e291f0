"""Options that save memory change nothing but the memory: micro batches, recomputed layers, bfloat16."""

import signal

import pytest
import torch
from safetensors.torch import load_file
from support import (
    CONTEXT,
    CPU,
    as_prompt,
    examples,
    golden_codec,
    kill_at_step,
    label_rows,
    random_network,
    run_process,
    write_rows,
)
from transformers import AutoConfig, AutoModelForCausalLM

from finegrain_trainer.batching import collate
from finegrain_trainer.data import Edit, Pair, read_labels
from finegrain_trainer.models import (
    RewardModel,
    hidden_states,
    recompute_layers,
    response_log_probs,
    store_frozen,
)
from finegrain_trainer.parallel import length_sorted_parts, over_rows, parts, place_module
from finegrain_trainer.reward import batch_loss, loss_counts, preferred_loss
from finegrain_trainer.sampling import sample
from finegrain_trainer.spec import SEQUENCE_LOSSES, TOKEN_LOSSES, RewardOptions


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> dict[type, list]:
    """Edits and pairs whose responses have from 20 to 50 tokens."""
    path = write_rows(tmp_path_factory.mktemp("labels") / "labels.ndjson", label_rows(golden_codec(), 14))
    edits, pairs = read_labels(path, 400)
    assert len({len(edit.original.token_ids) for edit in edits}) > 2
    return {Edit: edits, Pair: pairs}


@pytest.mark.parametrize("loss", TOKEN_LOSSES + SEQUENCE_LOSSES)
def test_micro_batches_add_up_to_the_loss_and_the_gradient_of_the_whole_step(loss, labelled):
    rows = labelled[Pair if loss == "seq_pairs" else Edit]
    preferred = [] if loss == "seq_pairs" else labelled[Pair][:7]
    model, options = RewardModel(random_network().base_model, loss, -4.0, heads=2), RewardOptions(heads=2)
    weights = torch.rand(len(rows) + len(preferred), 2, generator=torch.Generator().manual_seed(1))
    counts = loss_counts(loss, rows, preferred)

    def gradient(micro_batch_size: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = 0.0
        for part in parts(range(len(rows)), micro_batch_size):
            share = batch_loss(model, [rows[row] for row in part.rows], options, weights[part.rows], counts)
            share.backward()
            total += share.item()
        for part in parts(range(len(preferred)), micro_batch_size) if preferred else []:
            of_preferred, own = [preferred[row] for row in part.rows], weights[len(rows) :][part.rows]
            share = preferred_loss(model, of_preferred, options, own, counts["preferred"])
            share.backward()
            total += share.item()
        return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole, in_parts = gradient(0), gradient(4)
    assert in_parts[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(in_parts[1], whole[1], atol=1e-6, rtol=1e-4)


def trajectory(kind: str, spec: dict, workdir, **options) -> list[dict[str, float]]:
    code, lines = run_process(kind, {**spec, "hyperparameters": {**spec["hyperparameters"], **options}}, workdir)
    assert code == 0, lines[-1]
    return [line["values"] for line in lines if line["type"] == "metrics"]


@pytest.fixture(scope="module")
def sft_spec(tmp_path_factory, policy_folder) -> dict:
    rows = write_rows(tmp_path_factory.mktemp("sft") / "examples.ndjson", examples(64))
    options = {"epochs": 4, "batch_size": 11, "learning_rate": 1e-2}
    return {"base_model": {"path": str(policy_folder)}, "data": {"examples": str(rows)}, "hyperparameters": options}


@pytest.fixture(scope="module")
def usual(sft_spec, tmp_path_factory) -> list[dict[str, float]]:
    return trajectory("sft", sft_spec, tmp_path_factory.mktemp("usual"))


def test_sft_in_micro_batches_goes_the_same_way(sft_spec, usual, tmp_path):
    in_parts = trajectory("sft", sft_spec, tmp_path, micro_batch_size=3)
    assert len(usual) > 2
    for a, b in zip(usual, in_parts, strict=True):
        assert b == pytest.approx(a, abs=1e-4)


def test_a_run_that_found_too_little_memory_goes_on_in_micro_batches(sft_spec, usual, tmp_path):
    options = {**sft_spec["hyperparameters"], "checkpoint_every": 5}
    code, _ = run_process("sft", {**sft_spec, "hyperparameters": options}, tmp_path, kill_at_step(22))
    assert code == -signal.SIGKILL
    smaller = {"checkpoint_every": 5, "micro_batch_size": 2, "gradient_checkpointing": True}
    resumed = trajectory("sft", sft_spec, tmp_path, **smaller)
    assert len(resumed) < len(usual)
    assert resumed[-1] == pytest.approx(usual[-1], abs=1e-4)


def test_ppo_in_micro_batches_goes_the_same_way(tuned_policy_folder, reward_folder, tmp_path):
    prompts = [{"id": row["id"], "prompt": row["prompt"]} for row in examples(12)]
    spec = {
        "policy": {"path": str(tuned_policy_folder)},
        "reward_model": {"path": str(reward_folder)},
        "data": {"prompts": str(write_rows(tmp_path / "prompts.ndjson", prompts))},
        "hyperparameters": {"steps": 3, "batch_size": 7, "max_new_tokens": 24, "scale_samples": 8},
    }
    whole = trajectory("ppo", spec, tmp_path / "whole")
    in_parts = trajectory("ppo", spec, tmp_path / "parts", micro_batch_size=2)
    for a, b in zip(whole, in_parts, strict=True):
        del a["tokens_per_second"], b["tokens_per_second"]
        assert b == pytest.approx(a, abs=1e-4)


@pytest.mark.slow
def test_dpo_in_micro_batches_goes_the_same_way_and_adapters_alone_learn_too(policy_folder, tmp_path):
    spec = {
        "policy": {"path": str(policy_folder)},
        "data": {"labels": str(write_rows(tmp_path / "labels.ndjson", label_rows(golden_codec(), 60)))},
        "hyperparameters": {"epochs": 3, "batch_size": 7, "learning_rate": 3e-3},
    }
    whole = trajectory("dpo", spec, tmp_path / "whole")
    in_parts = trajectory("dpo", spec, tmp_path / "parts", micro_batch_size=2, gradient_checkpointing=True)
    for a, b in zip(whole, in_parts, strict=True):
        assert b == pytest.approx(a, abs=2e-4)
    adapted = trajectory("dpo", spec, tmp_path / "adapted", lora_rank=4, learning_rate=1e-2, precision="bf16")
    losses = [values["loss"] for values in adapted if "loss" in values]
    assert losses[-1] < losses[0]
    assert adapted[-1]["validation_kl_per_response"] > 0.01
    assert (tmp_path / "adapted/output/model/adapter/adapter_model.safetensors").is_file()


def test_recomputed_layers_give_the_same_gradient_and_decode_the_same(policy_folder):
    codec = golden_codec()
    batch = collate(
        [codec.prompt_ids(as_prompt("Hi"))] * 2, [codec.response_ids("ab"), codec.response_ids("c d e")], CPU
    )

    def run(recompute: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
        network, calls = random_network(), []
        if recompute:
            recompute_layers(network.base_model, policy_folder)
        for layer in network.base_model.layers:
            layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        response_log_probs(network, batch).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        in_training = len(calls)
        decoded = sample(network, [[5, 6, 7]], torch.full((1, 9), 0.3), 2, 1.0).log_probs
        return gradient, decoded, in_training

    kept, recomputed = run(False), run(True)
    assert torch.equal(kept[0], recomputed[0])
    assert torch.equal(kept[1], recomputed[1])
    assert (kept[2], recomputed[2]) == (2, 4)  # two layers


def test_a_layer_that_recomputes_has_no_dropout(policy_folder):
    config = AutoConfig.for_model(
        "opt", vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16,
        max_position_embeddings=CONTEXT, word_embed_proj_dim=16, dropout=0.5,
    )  # fmt: skip
    backbone = AutoModelForCausalLM.from_config(config).eval().base_model
    recompute_layers(backbone, policy_folder)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        expected = hidden_states(backbone, ids)
    assert torch.equal(hidden_states(backbone, ids), expected)


def test_bf16_trains_weights_and_moments_in_float32(sft_spec, usual, tmp_path):
    rounded = trajectory("sft", sft_spec, tmp_path, precision="bf16")
    losses = [[values["loss"] for values in run if "loss" in values] for run in (usual, rounded)]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert losses[1] != losses[0]
    assert losses[1][-1] < losses[1][0] - 1
    last = max((tmp_path / "checkpoints").glob("step-*"))
    assert {t.dtype for t in load_file(last / "tensors.safetensors").values()} == {torch.float32}
    assert {t.dtype for t in load_file(tmp_path / "output/model/model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_in_bf16_decoding_and_training_see_the_same_log_probabilities(architecture):
    network = random_network(architecture)
    placed = place_module(network, "bf16", CPU)
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    sampled = placed(sample, network, prompts, torch.rand(2, 20, generator=torch.Generator().manual_seed(0)), 2, 1.0)
    batch = collate(prompts, sampled.lists(), CPU)
    log_probs = placed(response_log_probs, network, batch)
    with torch.no_grad():
        exact = response_log_probs(network, batch)
    assert sampled.log_probs.dtype == log_probs.dtype == torch.float32
    assert (log_probs - sampled.log_probs[sampled.mask]).abs().max() < 0.15
    assert 1e-4 < (log_probs - exact).abs().max() < 0.15  # it computes in bfloat16, and not far off


def test_frozen_weights_are_stored_in_bf16_and_positions_stay_exact():
    network = random_network().requires_grad_(False)
    store_frozen(network, "bf16")
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in network.buffers() if b.is_floating_point()} == {torch.float32}


LENGTHS = [9, 3, 12, 5, 7, 12, 4]


@pytest.mark.parametrize("micro_batch_size", [0, 1, 3])
def test_rows_of_like_length_are_computed_together_and_their_values_come_in_the_order_of_the_rows(micro_batch_size):
    computed = []

    def twice(prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
        computed.append([len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)])
        return torch.tensor([2.0 * token for response in responses for token in response])

    prompts = [[0] * 2 for _ in LENGTHS]
    responses = [list(range(10 * row, 10 * row + length - 2)) for row, length in enumerate(LENGTHS)]
    values = over_rows(place_module(torch.nn.Linear(1, 1), "fp32", CPU), twice, prompts, responses, micro_batch_size)
    assert values.tolist() == [2.0 * token for response in responses for token in response]
    assert [length for part in computed for length in part] == sorted(LENGTHS, reverse=True)
    assert max(map(len, computed)) == (micro_batch_size or len(LENGTHS))


def test_a_cpu_computes_as_many_rows_at_a_time_as_fit_its_caches():
    lengths = [100] * 40
    sizes = [len(part.rows) for part in length_sorted_parts(range(40), lengths, 0, CPU)]
    assert sizes == [15, 15, 10]
    assert len(length_sorted_parts(range(40), lengths, 0, torch.device("meta"))) == 1
