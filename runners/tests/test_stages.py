"""Whole runs: each kind does its work, and killed at any instant it ends as if it had not been."""

import gzip
import itertools
import json
import math
import os
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from support import (
    CPU,
    EOS,
    as_prompt,
    examples,
    golden_codec,
    kill_at_step,
    label_rows,
    outcome_digest,
    run_here,
    run_process,
    save_random_reward_model,
    world_row,
    write_rows,
)

from finegrain_trainer.failures import BadSpec, Unstable
from finegrain_trainer.models import load_policy
from finegrain_trainer.ppo import starting_scale
from finegrain_trainer.ppo_networks import load_networks
from finegrain_trainer.spec import LocalModel, parse_spec

SCRATCH = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 320, "context_length": 96}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "examples.ndjson", examples(64))
    write_rows(folder / "labels.ndjson", label_rows(golden_codec(), 48))
    rng = random.Random(9)
    write_rows(folder / "prompts.ndjson", [{"id": f"q{i}", "prompt": world_row(rng)[0]} for i in range(20)])
    return folder


@pytest.fixture(scope="module")
def specs(data, policy_folder, tuned_policy_folder, reward_folder):
    """A small spec of each kind that takes a dozen steps or so."""
    return {
        "sft": {
            "base_model": {"scratch": SCRATCH},
            "data": {"examples": str(data / "examples.ndjson")},
            "hyperparameters": {"epochs": 2, "batch_size": 8, "checkpoint_every": 3},
        },
        "reward": {
            "base_model": {"path": str(policy_folder)},
            "data": {"labels": str(data / "labels.ndjson")},
            "hyperparameters": {"epochs": 3, "batch_size": 6, "checkpoint_every": 3},
        },
        "ppo": {
            "policy": {"path": str(tuned_policy_folder)},
            "reward_model": {"path": str(reward_folder)},
            "data": {"prompts": str(data / "prompts.ndjson")},
            "hyperparameters": {
                "steps": 8, "batch_size": 6, "max_new_tokens": 32, "scale_samples": 12, "checkpoint_every": 2,
            },
        },
        "dpo": {
            "policy": {"path": str(tuned_policy_folder)},
            "data": {"labels": str(data / "labels.ndjson")},
            "hyperparameters": {"epochs": 3, "batch_size": 6, "checkpoint_every": 3},
        },
        "generate": {
            "model": {"path": str(tuned_policy_folder)},
            "data": {"prompts": str(data / "prompts.ndjson")},
            "hyperparameters": {"batch_size": 4, "max_new_tokens": 24},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(specs, tmp_path_factory):
    """Outcome of each kind without any disturbance, computed once."""
    outcomes = {}

    def outcome(kind: str):
        if kind not in outcomes:
            workdir = tmp_path_factory.mktemp(kind)
            code, lines = run_process(kind, specs[kind], workdir)
            assert (code, lines[-1]["type"]) == (0, "result")
            outcomes[kind] = (workdir, lines)
        return outcomes[kind]

    return outcome


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo", "dpo"])
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(kind, specs, undisturbed, tmp_path):
    expected = outcome_digest(undisturbed(kind)[0])
    code, lines = run_process(kind, specs[kind], tmp_path, kill_at_step(4))
    assert code == -signal.SIGKILL
    assert not (tmp_path / "output/model").exists()
    code, lines = run_process(kind, specs[kind], tmp_path)
    assert code == 0
    assert any("resuming after step" in line.get("message", "") for line in lines)
    assert outcome_digest(tmp_path) == expected


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo", "dpo"])
def test_sigterm_checkpoints_at_once_and_the_run_goes_on_to_the_same_end(kind, specs, undisturbed, tmp_path):
    code, lines = run_process(kind, specs[kind], tmp_path, kill_at_step(5, signal.SIGTERM))
    assert code == 75
    assert lines[-1]["type"] == "checkpoint"
    assert lines[-1]["step"] in (5, 6)
    assert (tmp_path / lines[-1]["path"]).is_dir()
    code, _ = run_process(kind, specs[kind], tmp_path)
    assert code == 0
    assert outcome_digest(tmp_path) == outcome_digest(undisturbed(kind)[0])


@pytest.mark.slow
def test_killed_again_and_again_at_random_instants_it_still_ends_the_same(specs, undisturbed, tmp_path):
    rng = random.Random(1)
    killed = 0
    for _ in range(5):
        timers = []

        def arm(pid: int, line: dict, timers=timers) -> None:
            if not timers:  # from the first line on: while loading, measuring, training or writing
                timers.append(threading.Timer(rng.uniform(0.02, 0.6), lambda: os.kill(pid, signal.SIGKILL)))
                timers[0].start()

        code, _ = run_process("ppo", specs["ppo"], tmp_path, arm)
        timers[0].cancel()
        killed += code == -signal.SIGKILL
    assert killed >= 2
    assert run_process("ppo", specs["ppo"], tmp_path)[0] == 0
    assert outcome_digest(tmp_path) == outcome_digest(undisturbed("ppo")[0])


def test_a_finished_run_that_is_started_again_says_the_same(specs, undisturbed, tmp_path):
    workdir, lines = undisturbed("reward")
    before = outcome_digest(workdir)
    code, again = run_process("reward", specs["reward"], workdir)
    assert (code, again[-1], outcome_digest(workdir)) == (0, lines[-1], before)


@pytest.mark.parametrize(
    ("kind", "change"),
    [("reward", {"seed": 1}), ("sft", {"base_model": {"scratch": {**SCRATCH, "hidden_size": 16}}})],
)
def test_a_workdir_of_another_run_is_refused(specs, undisturbed, kind, change):
    _, lines = run_process(kind, {**specs[kind], **change}, undisturbed(kind)[0])
    assert lines[-1]["reason"] == "bad_spec"
    assert "another spec" in lines[-1]["detail"]


# ---- what each kind does


def test_sft_from_scratch_learns_and_leaves_a_whole_model(undisturbed):
    workdir, lines = undisturbed("sft")
    losses = [line["values"]["loss"] for line in lines if "loss" in line.get("values", {})]
    assert lines[-1]["result"]["validation_loss"] < losses[0]
    assert {p.name for p in (workdir / "output/model").iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "finegrain.json",
    }  # fmt: skip
    model = load_policy(LocalModel(workdir / "output/model"), CPU)
    assert model.card.vocab_size == model.network.config.vocab_size <= 320
    assert model.codec.prompt_ids(())[-1] == model.codec.format.generation_prefix[0]


def test_sft_continues_a_model_and_keeps_its_tokenizer(data, policy_folder, tmp_path):
    spec = {
        "base_model": {"path": str(policy_folder)},
        "data": {"examples": str(data / "examples.ndjson")},
        "hyperparameters": {"epochs": 1, "batch_size": 32},
    }
    run_here("sft", spec, tmp_path)
    for name in ("tokenizer.json", "finegrain.json"):
        assert (tmp_path / "output/model" / name).read_bytes() == (policy_folder / name).read_bytes()


def test_reward_reports_the_three_metrics_together_with_counts_and_intervals(undisturbed):
    workdir, lines = undisturbed("reward")
    report = json.loads((workdir / "output/model/report.json").read_text())
    for split in ("validation", "test"):
        assert report[split]["edit_accuracy"]["n"] == 12
        assert report[split]["pair_accuracy"]["n"] == 12
        assert report[split]["bad_token_auc"]["labelled_tokens"] > 0
        for metric in report[split].values():
            assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    model = next(line for line in lines if line["type"] == "model")
    assert model["metrics"] == {name: report["test"][name]["value"] for name in model["metrics"]}
    assert set(model["metrics"]) == {"edit_accuracy", "pair_accuracy", "bad_token_auc"}


def test_reward_says_where_its_metrics_hold_and_shows_its_worst_items(undisturbed):
    workdir, _ = undisturbed("reward")
    report = json.loads((workdir / "output/model/report.json").read_text())
    of_test = report["breakdown"]["test"]
    assert sum(group["edit_accuracy"]["n"] for group in of_test["by_length"]) == 12
    lengths = [group["tokens"] for group in of_test["by_length"]]
    assert lengths == sorted(lengths)
    assert of_test["by_kind"]["replace"] == {n: report["test"][n] for n in ("edit_accuracy", "bad_token_auc")}
    assert of_test["by_kind"]["insert"]["edit_accuracy"]["n"] == 0
    tokens = report["test"]["bad_token_auc"]
    counted = sum(row["tokens"] for row in of_test["calibration"]["bins"])
    assert counted == tokens["labelled_tokens"] + tokens["other_tokens"]

    rows = [json.loads(line) for line in (workdir / "output/model/errors.ndjson").read_text().splitlines()]
    assert len(rows) == sum(
        round(report["test"][name]["n"] * (1 - report["test"][name]["value"]))
        for name in ("edit_accuracy", "pair_accuracy")
    )
    for row in rows:
        worse, better = ("other", "preferred") if row["type"] == "pair" else ("original", "edited")
        assert row["split"] == "test"
        assert row["margin"] <= 0
        assert sum(row[better]["rewards"]) - sum(row[worse]["rewards"]) == pytest.approx(row["margin"], abs=0.01)
        assert len(row[worse]["tokens"]) == len(row[worse]["rewards"])


def test_each_epoch_is_judged_on_the_validation_split(undisturbed):
    _, lines = undisturbed("reward")
    judged = [line for line in lines if "validation_bad_token_auc" in line.get("values", {})]
    assert [line["step"] for line in judged] == [4, 8, 12]


def test_training_stops_when_validation_gets_no_better_and_keeps_what_was_best(specs, tmp_path):
    rows = label_rows(golden_codec(), 48)
    rng = random.Random(1)
    for row in rows:  # nothing to learn: the labels of the training rows are at random
        if row["type"] == "edit" and row["split"] == "train":
            rng.shuffle(row["original"]["labels"])
    options = {**specs["reward"]["hyperparameters"], "epochs": 30, "patience": 2}
    data = {"labels": str(write_rows(tmp_path / "labels.ndjson", rows))}
    spec = {**specs["reward"], "data": data, "hyperparameters": options}
    code, lines = run_process("reward", spec, tmp_path / "whole")
    result = lines[-1]["result"]
    judged = [
        v["validation_bad_token_auc"] for v in (x.get("values", {}) for x in lines) if "validation_bad_token_auc" in v
    ]
    *by_epoch, final = judged
    assert code == 0
    assert result["training"]["steps"] == 4 * len(by_epoch) < 4 * 30
    assert final == max(by_epoch) == result["training"]["best_validation"]["bad_token_auc"]
    assert max(by_epoch[-2:]) <= final

    code, _ = run_process("reward", spec, tmp_path / "killed", kill_at_step(result["training"]["steps"] - 1))
    assert code == -signal.SIGKILL
    assert run_process("reward", spec, tmp_path / "killed")[0] == 0
    assert outcome_digest(tmp_path / "killed") == outcome_digest(tmp_path / "whole")


def test_patience_needs_rows_to_watch(specs, tmp_path):
    rows = [row for row in label_rows(golden_codec(), 16) if row["split"] != "validation"]
    data = {"labels": str(write_rows(tmp_path / "labels.ndjson", rows))}
    options = {**specs["reward"]["hyperparameters"], "patience": 1}
    with pytest.raises(BadSpec, match="validation"):
        run_here("reward", {**specs["reward"], "data": data, "hyperparameters": options}, tmp_path)


def test_reward_learns_which_tokens_are_wrong(data, policy_folder, tmp_path):
    spec = {
        "base_model": {"path": str(policy_folder)},
        "data": {"labels": str(write_rows(tmp_path / "l.ndjson", label_rows(golden_codec(), 200)))},
        "hyperparameters": {"epochs": 6, "learning_rate": 1e-2},
    }
    result = run_here("reward", spec, tmp_path)
    assert result["bad_token_auc"] > 0.85
    assert result["test"]["bad_token_auc"]["low"] > 0.75


@pytest.mark.parametrize(
    "loss", ["bt_hunk", "seq_pairs", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("bt_sum", "seq_edits"))]
)
def test_every_other_loss_learns_which_version_is_better(data, policy_folder, tmp_path, loss):
    spec = {
        "base_model": {"path": str(policy_folder)},
        "loss": loss,
        "data": {"labels": str(write_rows(tmp_path / "l.ndjson", label_rows(golden_codec(), 400)))},
        "hyperparameters": {"epochs": 6, "learning_rate": 1e-2},
    }
    result = run_here("reward", spec, tmp_path)
    assert result["loss"] == loss
    assert result["test"]["edit_accuracy"]["low"] > 0.6
    assert result["training"]["pairs" if loss == "seq_pairs" else "edits"] == 200
    card = json.loads((tmp_path / "output/model/finegrain.json").read_text())
    token_rewards = loss.startswith("bt")
    assert card["role"] == ("token_reward" if token_rewards else "sequence_reward")
    assert card["reward"] == {"loss": loss}
    assert result["onnx_difference"] < 1e-4
    assert (result["int8"] is not None) == token_rewards
    golden = json.loads((tmp_path / "output/model/golden.json").read_text())
    assert len(golden["items"]) > 10, "a sequence model has one, too: it judges evaluations"
    assert (result["bad_token_auc"] is not None) == token_rewards
    if token_rewards:
        assert result["bad_token_auc"] > 0.7


def test_a_hunk_loss_refuses_rows_without_hunks(specs, tmp_path):
    rows = [{key: value for key, value in row.items() if key != "hunks"} for row in label_rows(golden_codec(), 8)]
    data = {"labels": str(write_rows(tmp_path / "labels.ndjson", rows))}
    with pytest.raises(BadSpec, match="needs the hunks"):
        run_here("reward", {**specs["reward"], "loss": "bt_hunk", "data": data}, tmp_path)


def test_a_reward_model_that_cannot_rank_raises_the_alarms(specs, data, tmp_path):
    rows = label_rows(golden_codec(), 48)
    for row in rows:
        if row["split"] == "train" and row["type"] == "edit":
            row["original"], row["edited"], row["hunks"] = row["edited"], row["original"], []
            row["original"]["labels"] = [1] * len(row["original"]["labels"])
    spec = {**specs["reward"], "data": {"labels": str(write_rows(tmp_path / "labels.ndjson", rows))}}
    code, lines = run_process("reward", spec, tmp_path)
    alarms = {line["code"]: line for line in lines if line["type"] == "alarm"}
    assert code == 0
    assert set(alarms) == {"low_pair_accuracy", "low_bad_token_auc"}
    assert alarms["low_pair_accuracy"]["value"] < alarms["low_pair_accuracy"]["threshold"] == 0.70


def test_edits_that_are_unusable_unchanged_or_too_long_are_left_out_and_counted(specs, tmp_path):
    rows = label_rows(golden_codec(), 48)
    train = [row for row in rows if row["type"] == "edit" and row["split"] == "train"]
    train[0]["usable"] = False
    train[1] |= {"edited": train[1]["original"], "hunks": []}
    train[2]["hunks"] = []
    train[2]["original"] = {"text": "x", "token_ids": [50] * 96, "labels": [0] * 96}
    spec = {**specs["reward"], "data": {"labels": str(write_rows(tmp_path / "labels.ndjson", rows))}}
    training = run_here("reward", spec, tmp_path)["training"]
    assert training["edits"] == len(train) - 3
    assert (training["without_token_labels"], training["unchanged_edits"], training["too_long"]) == (1, 1, 1)


@pytest.mark.parametrize("critic", ["shared", pytest.param("separate", marks=pytest.mark.slow)])
def test_ppo_raises_the_reward_that_it_is_given(specs, tmp_path, critic):
    options = {"steps": 12, "batch_size": 24, "max_new_tokens": 32, "scale_samples": 48, "learning_rate": 3e-3}
    spec = {**specs["ppo"], "hyperparameters": {**options, "critic": critic}}
    code, lines = run_process("ppo", spec, tmp_path)
    metrics = [line["values"] for line in lines if line["type"] == "metrics"]
    assert code == 0
    assert sum(m["reward_per_token"] for m in metrics[-3:]) > sum(m["reward_per_token"] for m in metrics[:3])
    assert metrics[-1]["kl_per_response"] > 0.1


@pytest.mark.slow
def test_without_a_critic_it_learns_too_under_a_price_of_kl_that_follows(specs, tmp_path):
    options = {
        "steps": 12, "batch_size": 24, "samples_per_prompt": 4, "advantage": "leave_one_out", "max_new_tokens": 32,
        "scale_samples": 48, "learning_rate": 3e-3, "kl_target": 0.5, "kl_horizon": 48, "checkpoint_every": 2,
    }  # fmt: skip
    spec = {**specs["ppo"], "hyperparameters": options}
    code, lines = run_process("ppo", spec, tmp_path / "whole")
    metrics = [line["values"] for line in lines if line["type"] == "metrics"]
    assert code == 0
    assert sum(m["reward_per_token"] for m in metrics[-3:]) > sum(m["reward_per_token"] for m in metrics[:3])
    for before, after in itertools.pairwise(metrics):  # more KL than wanted makes it dearer
        assert (after["beta"] > before["beta"]) == (before["kl_per_response"] > 0.5)
    assert all(m["kl_k3_per_token"] >= 0 and m["entropy"] > 0 and m["tokens_per_second"] > 0 for m in metrics)

    code, _ = run_process("ppo", spec, tmp_path / "killed", kill_at_step(7))
    assert code == -signal.SIGKILL
    assert run_process("ppo", spec, tmp_path / "killed")[0] == 0
    assert outcome_digest(tmp_path / "killed") == outcome_digest(tmp_path / "whole")


@pytest.mark.slow
def test_ppo_raises_the_reward_of_a_sequence_model(specs, policy_folder, data, tmp_path):
    reward_spec = {
        "base_model": {"path": str(policy_folder)},
        "loss": "seq_edits",
        "data": {"labels": str(write_rows(tmp_path / "l.ndjson", label_rows(golden_codec(), 400)))},
        "hyperparameters": {"epochs": 6, "learning_rate": 1e-2},
    }
    run_here("reward", reward_spec, tmp_path / "reward")
    for placement in ("token", "spread"):
        spec = {
            **specs["ppo"],
            "reward_model": {"path": str(tmp_path / "reward/output/model")},
            "hyperparameters": {
                "steps": 12, "batch_size": 48, "max_new_tokens": 32, "scale_samples": 96, "learning_rate": 2e-3,
                # so that the sum of the rewards, which is looked at below, is all that is maximised
                "beta": 0.0, "mu": "zero", "truncation_cost": 0.0, "reward_placement": placement,
            },
        }  # fmt: skip
        code, lines = run_process("ppo", spec, tmp_path / placement)
        rewards = [line["values"]["reward_sum"] for line in lines if line["type"] == "metrics"]
        assert code == 0
        assert sum(rewards[-4:]) > sum(rewards[:4]), (placement, rewards)


def evaluated(spec: dict, data: Path) -> dict:
    reference = {"path": str(spec["policy"]["path"])}
    return {**spec, "evaluation": {"prompts": str(data / "prompts.ndjson"), "every": 3, "kl_reference": reference}}


def test_evaluations_leave_the_training_alone(specs, undisturbed, data, tmp_path):
    code, lines = run_process("ppo", evaluated(specs["ppo"], data), tmp_path / "whole")
    assert (code, lines[-1]["type"]) == (0, "result")
    weights = [folder / "output/model/model.safetensors" for folder in (undisturbed("ppo")[0], tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    rows = [json.loads(line) for line in (tmp_path / "whole/output/evaluations.ndjson").read_text().splitlines()]
    assert [(row["step"], row["samples"]) for row in rows[::20]] == [(0, 0), (3, 18), (6, 36), (8, 48)]
    assert len(rows) == 4 * 20
    assert max(abs(row["kl"]) for row in rows[:20]) < 1e-4  # the starting policy
    assert any(abs(row["kl"]) > 1e-3 for row in rows[60:])
    assert all(row["reward"] <= 0 and row["kl_to_reference"] == row["kl"] for row in rows)


@pytest.mark.slow
def test_evaluations_survive_a_kill(specs, data, tmp_path):
    spec = evaluated(specs["ppo"], data)
    assert run_process("ppo", spec, tmp_path / "whole")[0] == 0
    code, _ = run_process("ppo", spec, tmp_path / "killed", kill_at_step(5))
    assert code == -signal.SIGKILL
    assert run_process("ppo", spec, tmp_path / "killed")[0] == 0
    assert outcome_digest(tmp_path / "killed") == outcome_digest(tmp_path / "whole")
    files = [tmp_path / name / "output/evaluations.ndjson" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_kl_is_measured_against_the_reference_that_is_named(specs, policy_folder, tuned_policy_folder, tmp_path):
    own = {**specs["generate"], "kl_reference": {"path": str(tuned_policy_folder)}}
    other = {**specs["generate"], "kl_reference": {"path": str(policy_folder)}}
    assert abs(run_here("generate", own, tmp_path / "own")["kl_per_response"]) < 1e-4
    result = run_here("generate", other, tmp_path / "other")
    rows = [json.loads(line) for line in (tmp_path / "other/output/responses.ndjson").read_text().splitlines()]
    assert result["kl_per_response"] == pytest.approx(sum(row["kl"] for row in rows) / len(rows))
    assert result["kl_per_response"] > 1


def test_the_first_rollout_has_no_kl_and_a_critic_that_knows_nothing(undisturbed):
    first = next(line["values"] for line in undisturbed("ppo")[1] if line["type"] == "metrics")
    assert abs(first["kl_per_response"]) < 1e-5
    assert first["explained_variance"] == pytest.approx(0, abs=1e-6)  # the value head starts at zero
    assert {"reward_sum", "mu", "s", "beta", "length", "truncated", "clip_fraction"} <= set(first)


@pytest.mark.parametrize("mu", ["batch", "slope", "zero"])
def test_token_and_sequence_rewards_come_to_the_same_total_scale(mu, specs, policy_folder, tmp_path):
    options = {"mu": mu, "scale_samples": 24, "batch_size": 8, "max_new_tokens": 12}
    for loss in ("survival", "seq_edits"):
        reward = save_random_reward_model(policy_folder, tmp_path / loss, loss)
        own = {
            "policy": {"path": str(policy_folder)},
            "reward_model": {"path": str(reward)},
            "hyperparameters": options,
        }
        spec = parse_spec({**specs["ppo"], **own}, "ppo", tmp_path)
        policy = load_policy(spec.policy, CPU)
        prompts = [policy.codec.prompt_ids(as_prompt(f"Write to {name}.")) for name in ("Anna", "Bob", "Carl")]
        actor, _, scorer = load_networks(spec, policy, {}, CPU)
        generator = torch.Generator().manual_seed(3)
        scale, _ = starting_scale(actor, scorer, prompts, policy.card.vocab_size, generator, spec.options)
        totals = []
        generator = torch.Generator().manual_seed(3)  # the same samples once more
        for start in range(0, 24, 8):
            batch = [prompts[(start + i) % 3] for i in range(8)]
            rollout = actor.sample(batch, torch.rand(8, 12, generator=generator))
            for prompt, response in zip(batch, rollout.lists(), strict=True):
                rewards = scorer.rewards([prompt], [response])
                paid = rewards if loss == "survival" else rewards[-1:]
                totals.append(sum((r - scale.mu) / scale.s for r in paid.tolist()))
        assert torch.tensor(totals).double().std().item() == pytest.approx(1, abs=1e-5)


def test_the_first_minibatch_of_every_step_has_ratio_1(specs, tmp_path):
    options = {**specs["ppo"]["hyperparameters"], "epochs": 1, "minibatches": 1, "learning_rate": 1e-2}
    _, lines = run_process("ppo", {**specs["ppo"], "hyperparameters": options}, tmp_path)
    metrics = [line["values"] for line in lines if line["type"] == "metrics"]
    assert len(metrics) == 8
    assert metrics[-1]["kl_per_response"] > 0.1, "the policy must move, or this shows nothing"
    for values in metrics:
        assert abs(values["approx_kl"]) < 1e-6
        assert values["clip_fraction"] == 0
        assert abs(values["policy_loss"]) < 1e-5  # minus the mean of whitened advantages


def test_rollouts_say_what_each_token_was_worth_and_change_nothing(specs, undisturbed, tmp_path):
    workdir, lines = undisturbed("ppo")
    (said,) = [line for line in lines if line["type"] == "rollouts"]
    assert (said["step"], said["count"]) == (5, 6)
    rows = [json.loads(line) for line in gzip.decompress((workdir / said["path"]).read_bytes()).splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert "".join(row["tokens"]) == row["response"]
        columns = ("tokens", "rewards", "kl", "values", "advantages", "logprobs")
        assert {len(row[column]) for column in columns} == {len(row["token_ids"])}
    metrics = next(line["values"] for line in lines if line["type"] == "metrics" and line["step"] == 5)
    mean = sum(sum(row["rewards"]) for row in rows) / len(rows)
    assert mean == pytest.approx(metrics["reward_sum"], abs=1e-4)

    without = {**specs["ppo"], "hyperparameters": {**specs["ppo"]["hyperparameters"], "rollouts_every": 0}}
    code, _ = run_process("ppo", without, tmp_path, kill_at_step(5))
    assert code == -signal.SIGKILL
    code, lines = run_process("ppo", specs["ppo"], tmp_path)  # its checkpoints are those of the same run
    assert code == 0
    assert outcome_digest(tmp_path) == outcome_digest(workdir)


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo", "dpo"])
def test_a_run_that_is_to_finish_at_a_checkpoint_makes_a_model_of_it(kind, specs, undisturbed, tmp_path):
    workdir, _ = undisturbed(kind)
    checkpoint = sorted((workdir / "checkpoints").glob("step-*"))[0]
    step = int(checkpoint.name.removeprefix("step-"))
    shutil.copytree(checkpoint, tmp_path / "checkpoints" / checkpoint.name)
    code, lines = run_process(kind, {**specs[kind], "finish_at_checkpoint": True}, tmp_path)
    assert code == 0
    assert not any(line["type"] == "checkpoint" or line.get("stage") == "train" for line in lines)
    result = lines[-1]["result"]
    assert (result.get("training") or result)["steps"] == step
    assert outcome_digest(tmp_path) != outcome_digest(workdir)
    if kind == "ppo":  # nothing of a step depends on how many there will be
        shorter = {**specs["ppo"], "hyperparameters": {**specs["ppo"]["hyperparameters"], "steps": step}}
        assert run_process("ppo", shorter, tmp_path / "shorter")[0] == 0
        assert outcome_digest(tmp_path) == outcome_digest(tmp_path / "shorter")


def test_a_run_that_is_to_finish_at_a_checkpoint_needs_one(specs, tmp_path):
    code, lines = run_process("sft", {**specs["sft"], "finish_at_checkpoint": True}, tmp_path)
    assert code != 0
    assert lines[-1]["reason"] == "bad_spec"


@pytest.mark.parametrize("pairs", ["edits", "preferences"])
def test_dpo_learns_to_tell_the_better_response_and_says_how_far_it_has_moved(specs, tmp_path, pairs):
    labels = write_rows(tmp_path / "labels.ndjson", label_rows(golden_codec(), 200))
    options = {"epochs": 4, "learning_rate": 3e-3}
    spec = {**specs["dpo"], "pairs": pairs, "data": {"labels": str(labels)}, "hyperparameters": options}
    code, lines = run_process("dpo", spec, tmp_path / "run")
    result = lines[-1]["result"]
    assert code == 0
    assert (result["pairs"], result["train_pairs"], result["validation_pairs"]) == (pairs, 100, 50)
    assert result["validation_accuracy"] > 0.8
    assert result["validation_margin"] > 0
    assert result["validation_kl_per_response"] > 0.05
    losses = [line["values"]["loss"] for line in lines if "loss" in line.get("values", {})]
    assert losses[-1] < losses[0]
    metrics = next(line["metrics"] for line in lines if line["type"] == "model")
    assert metrics["validation_loss"] == result["validation_loss"]


def test_dpo_begins_with_no_margin_at_all(specs, tmp_path):
    spec = {**specs["dpo"], "hyperparameters": {"epochs": 1, "learning_rate": 1e-12, "nll_weight": 0.0}}
    result = run_here("dpo", spec, tmp_path)
    assert result["validation_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result["validation_margin"] == pytest.approx(0, abs=1e-4)
    assert result["validation_kl_per_response"] == pytest.approx(0, abs=1e-4)


def test_cross_entropy_on_the_chosen_responses_keeps_them_likely(specs, tmp_path):
    options = {"epochs": 4, "learning_rate": 3e-3}
    plain, held = (
        run_here("dpo", {**specs["dpo"], "hyperparameters": options | extra}, tmp_path / name)
        for name, extra in (("plain", {"nll_weight": 0.0}), ("held", {}))
    )
    assert held["validation_chosen_log_ratio"] > plain["validation_chosen_log_ratio"]


def test_ppo_refuses_rewards_that_never_differ(specs, reward_folder, tmp_path, monkeypatch):
    from finegrain_trainer.models import RewardModel

    monkeypatch.setattr(RewardModel, "forward", lambda self, ids: torch.zeros(ids.shape))
    with pytest.raises(Unstable, match="all alike"):
        run_here("ppo", specs["ppo"], tmp_path)


def test_generate_answers_every_prompt_in_order_whatever_the_batch_size(specs, undisturbed, data, tmp_path):
    workdir, lines = undisturbed("generate")
    rows = [json.loads(line) for line in (workdir / "output/responses.ndjson").read_text().splitlines()]
    prompts = [json.loads(line) for line in (data / "prompts.ndjson").read_text().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(p["id"], p["prompt"]) for p in prompts]
    codec = golden_codec()
    assert {row["finish_reason"] for row in rows} == {"eos", "length"}
    for row in rows:
        assert row["finish_reason"] == ("eos" if row["token_ids"][-1] == EOS else "length")
        assert row["response"] == codec.decode([t for t in row["token_ids"] if t != EOS])
    assert {line["type"] for line in lines} >= {"progress", "artifact", "result"}

    other = {**specs["generate"], "hyperparameters": {"batch_size": 7, "max_new_tokens": 24}}
    run_here("generate", other, tmp_path)
    assert (tmp_path / "output/responses.ndjson").read_text() == (workdir / "output/responses.ndjson").read_text()


def test_generate_goes_on_where_it_was_stopped(specs, undisturbed, tmp_path):
    def terminate(pid: int, line: dict) -> None:
        if line.get("step") == 2:
            os.kill(pid, signal.SIGTERM)

    code, lines = run_process("generate", specs["generate"], tmp_path, terminate)
    assert (code, lines[-1]["type"]) == (75, "checkpoint")
    assert run_process("generate", specs["generate"], tmp_path)[0] == 0
    expected = undisturbed("generate")[0] / "output/responses.ndjson"
    assert (tmp_path / "output/responses.ndjson").read_text() == expected.read_text()


def test_generate_names_a_prompt_that_is_too_long(specs, tmp_path):
    rows = [{"id": "a", "prompt": "short"}, {"id": "b", "prompt": "long " * 60}]
    spec = {**specs["generate"], "data": {"prompts": str(write_rows(tmp_path / "p.ndjson", rows))}}
    with pytest.raises(BadSpec, match=r"p\.ndjson line 2: prompt: has \d+ tokens"):
        run_here("generate", spec, tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_as_unstable(specs, tmp_path):
    spec = {**specs["sft"], "hyperparameters": {"learning_rate": 1e30, "warmup_steps": 0}}
    code, lines = run_process("sft", spec, tmp_path)
    assert (code, lines[-1]["type"], lines[-1]["reason"]) == (1, "failure", "unstable")
