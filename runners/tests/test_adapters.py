"""LoRA: only adapters are trained, one backbone plays every part, and what is left is a model folder like any other."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from support import (
    CPU,
    examples,
    golden_codec,
    kill_at_step,
    label_rows,
    outcome_digest,
    random_network,
    run_here,
    run_process,
    world_row,
    write_rows,
)

from finegrain_trainer.adapters import (
    REWARD,
    TRAINED,
    adapter_tensors,
    add_adapter,
    is_adapter_of,
    merge_adapter,
    switched,
)
from finegrain_trainer.batching import collate
from finegrain_trainer.models import adapted_reward_model, load_policy, load_reward_model, response_log_probs
from finegrain_trainer.spec import LocalModel

LORA = {"lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 1e-2}
PROMPTS, RESPONSES = [[5, 6, 7], [8, 9, 10, 11]], [[20, 30, 40, 50], [60, 70]]


@pytest.fixture(scope="module")
def tuned(tuned_policy_folder, tmp_path_factory):
    """Workdir of a LoRA run on demonstrations."""
    workdir = tmp_path_factory.mktemp("sft-lora")
    rows = write_rows(workdir / "examples.ndjson", examples(64, seed=3))
    run_here("sft", {
        "base_model": {"path": str(tuned_policy_folder)}, "data": {"examples": str(rows)},
        "hyperparameters": {**LORA, "epochs": 3, "batch_size": 16},
    }, workdir)  # fmt: skip
    return workdir


@pytest.fixture(scope="module")
def rewarding(tuned_policy_folder, tmp_path_factory):
    """A reward model trained as an adapter of the tuned policy."""
    workdir = tmp_path_factory.mktemp("reward-lora")
    labels = write_rows(workdir / "labels.ndjson", label_rows(golden_codec(), 48))
    run_here("reward", {
        "base_model": {"path": str(tuned_policy_folder)}, "data": {"labels": str(labels)},
        "hyperparameters": {**LORA, "epochs": 3, "batch_size": 8},
    }, workdir)  # fmt: skip
    return workdir / "output/model"


def test_a_lora_run_trains_adapters_and_nothing_else(tuned, tuned_policy_folder):
    last = max((tuned / "checkpoints").glob("step-*"))
    names = [n.removeprefix("weights.") for n in load_file(last / "tensors.safetensors") if n.startswith("weights.")]
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    before, after = (load_file(f / "model.safetensors") for f in (tuned_policy_folder, tuned / "output/model"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}


def test_the_merged_model_computes_what_the_adapter_does_and_peft_opens_the_adapter(tuned, tuned_policy_folder):
    from peft import PeftModel

    batch = collate(PROMPTS, RESPONSES, CPU)
    merged = load_policy(LocalModel(tuned / "output/model"), CPU).network
    base = load_policy(LocalModel(tuned_policy_folder), CPU).network
    with torch.no_grad():
        unchanged = response_log_probs(base, batch)
        expected = response_log_probs(merged, batch)
        adapted = PeftModel.from_pretrained(base, tuned / "output/model/adapter")
        log_probs = adapted(batch.ids).logits.log_softmax(-1)[:, :-1]
        actual = log_probs.gather(2, batch.ids[:, 1:, None])[..., 0][batch.is_response[:, 1:]]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert (actual - unchanged).abs().max() > 0.01


def test_the_card_names_the_weights_that_the_adapter_belongs_to(tuned, rewarding, tuned_policy_folder, policy_folder):
    for folder in (tuned / "output/model", rewarding):
        assert is_adapter_of(folder, tuned_policy_folder)
        assert not is_adapter_of(folder, policy_folder)
        assert not is_adapter_of(folder, folder)
    config = json.loads((rewarding / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (4, 8.0, ["score"])


def test_a_reward_adapter_on_the_policys_backbone_gives_the_rewards_of_the_merged_model(rewarding, tuned_policy_folder):
    backbone = load_policy(LocalModel(tuned_policy_folder), CPU).network.base_model
    add_adapter(backbone, rank=2, alpha=4.0, seed=0)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_()  # a policy that has moved
    switchable, *_ = adapted_reward_model(rewarding, backbone, CPU)
    alone, *_ = load_reward_model(rewarding, CPU)
    with switched(backbone, REWARD):
        actual = switchable.response_rewards(PROMPTS, RESPONSES)
    torch.testing.assert_close(actual, alone.response_rewards(PROMPTS, RESPONSES), atol=1e-5, rtol=1e-5)


def test_what_runs_under_another_adapter_changes_nothing_of_the_policy(rewarding, tuned_policy_folder):
    policy = load_policy(LocalModel(tuned_policy_folder), CPU).network
    batch = collate(PROMPTS, RESPONSES, CPU)
    with torch.no_grad():
        start = response_log_probs(policy, batch)
    policy.requires_grad_(False)
    add_adapter(policy.base_model, rank=2, alpha=4.0, seed=0)
    reward_model, *_ = adapted_reward_model(rewarding, policy.base_model, CPU)
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(f".{TRAINED}." in name for name in trained)
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=1.0)

    def step() -> torch.Tensor:
        log_probs = response_log_probs(policy, batch)
        optimizer.zero_grad()
        log_probs.sum().backward()
        optimizer.step()
        return log_probs.detach()

    step(), step()
    state = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    undisturbed = step()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(state[name])
    with switched(policy, REWARD):
        reward_model.response_rewards(PROMPTS, RESPONSES)
    with switched(policy, None), torch.no_grad():
        assert torch.equal(response_log_probs(policy, batch), start)
    assert torch.equal(step(), undisturbed)
    assert not torch.equal(undisturbed, start)
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trained


@pytest.mark.parametrize("own_reward_backbone", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ppo_with_lora_killed_and_resumed_equals_undisturbed(
    own_reward_backbone, tuned_policy_folder, rewarding, reward_folder, tmp_path
):
    import random

    rng = random.Random(9)
    prompts = [{"id": f"q{i}", "prompt": world_row(rng)[0]} for i in range(20)]
    reward = reward_folder if own_reward_backbone else rewarding
    options = {**LORA, "steps": 4, "batch_size": 6, "max_new_tokens": 24, "scale_samples": 8, "checkpoint_every": 2}
    spec = {
        "policy": {"path": str(tuned_policy_folder)}, "reward_model": {"path": str(reward)},
        "data": {"prompts": str(write_rows(tmp_path / "p.ndjson", prompts))}, "hyperparameters": options,
    }  # fmt: skip
    code, lines = run_process("ppo", spec, tmp_path / "whole")
    metrics = [line["values"] for line in lines if line["type"] == "metrics"]
    assert code == 0, lines[-1]
    assert abs(metrics[0]["kl_per_response"]) < 1e-4  # the reference is the policy without its adapter
    assert metrics[-1]["kl_per_response"] > 0.01
    code, _ = run_process("ppo", spec, tmp_path / "killed", kill_at_step(3))
    assert code == -signal.SIGKILL
    assert run_process("ppo", spec, tmp_path / "killed")[0] == 0
    assert outcome_digest(tmp_path / "killed") == outcome_digest(tmp_path / "whole")


def test_the_reward_model_takes_no_memory_of_its_own_where_it_can_share(tuned_policy_folder, rewarding, tmp_path):
    from finegrain_trainer.ppo_networks import load_networks
    from finegrain_trainer.spec import parse_spec

    write_rows(tmp_path / "p.ndjson", [{"id": "a", "prompt": "Hi"}])
    spec = parse_spec({
        "policy": {"path": str(tuned_policy_folder)}, "reward_model": {"path": str(rewarding)},
        "data": {"prompts": "p.ndjson"}, "hyperparameters": LORA,
    }, "ppo", tmp_path)  # fmt: skip
    policy = load_policy(spec.policy, CPU)
    actor, reference, scorer = load_networks(spec, policy, {}, CPU)
    assert reference.network is actor.model.network
    assert scorer.model.model is actor.model.network.base_model


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "cohere"])
def test_a_new_adapter_changes_nothing_and_can_be_merged_whatever_the_architecture(architecture):
    network, merged = random_network(architecture), random_network(architecture)
    batch = collate(PROMPTS, RESPONSES, CPU)
    with torch.no_grad():
        before = response_log_probs(network, batch)
        add_adapter(network.base_model, rank=2, alpha=4.0, seed=0)
        assert torch.equal(response_log_probs(network, batch), before)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        after = response_log_probs(network, batch)
        merge_adapter(merged.base_model, 2, 4.0, adapter_tensors(network.base_model, TRAINED))
        torch.testing.assert_close(response_log_probs(merged, batch), after, atol=1e-4, rtol=1e-4)
    assert (after - before).abs().max() > 1e-3
    assert merged.state_dict().keys() == random_network(architecture).state_dict().keys()
