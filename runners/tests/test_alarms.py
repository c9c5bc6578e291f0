"""Each alarm is provoked by what it is there for, and each action is carried out."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from support import (
    CPU,
    EOS,
    examples,
    golden_codec,
    kill_at_step,
    label_rows,
    outcome_digest,
    run_process,
    world_row,
    write_rows,
)

from finegrain_trainer.alarms import Alarms
from finegrain_trainer.failures import BadSpec
from finegrain_trainer.models import RewardModel, load_policy, save_reward_model
from finegrain_trainer.policy_watch import abuses, token_shares, win_rate
from finegrain_trainer.spec import LocalModel, PpoAlarms, parse_alarms, parse_spec

SHORT = {"batch_size": 12, "max_new_tokens": 40, "scale_samples": 24, "checkpoint_every": 100, "rollouts_every": 0}


def crafted_reward_model(
    folder: Path, policy_folder: Path, *, token: int | None = None, worth: float = 5.0, level: float = 0.0
) -> Path:
    """Pays `level` for every token; with `token`, `worth` for that one and little for others, whatever comes before."""
    policy = load_policy(LocalModel(policy_folder), CPU)
    model = RewardModel(policy.network.base_model, "bt_sum")
    with torch.no_grad():
        for layer in model.model.layers:  # the hidden state of a token is its embedding and nothing else
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.score.weight.zero_()
        model.score.bias.fill_(level)
        if token is not None:
            direction = model.model.norm(model.model.embed_tokens.weight[token])
            model.score.weight.copy_(worth * direction[None] / direction.norm() ** 2)
    folder.mkdir()
    save_reward_model(model, policy, folder, None)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    import random

    rng = random.Random(3)
    rows = [{"id": f"q{i}", "prompt": world_row(rng)[0]} for i in range(24)]
    return write_rows(tmp_path_factory.mktemp("prompts") / "prompts.ndjson", rows)


def ppo(tuned_policy_folder: Path, reward: Path, prompts: Path, alarms: dict | None = None, **hyperparameters) -> dict:
    return {
        "policy": {"path": str(tuned_policy_folder)},
        "reward_model": {"path": str(reward)},
        "data": {"prompts": str(prompts)},
        "hyperparameters": {**SHORT, **hyperparameters},
        "alarms": alarms or {},
    }


def raised(lines: list[dict]) -> dict[str, dict]:
    alarms = [line for line in lines if line["type"] == "alarm"]
    assert len({line["code"] for line in alarms}) == len(alarms), "each is raised once"
    return {line["code"]: line for line in alarms}


# ---- what provokes them


def test_a_reward_that_pays_for_length_is_found_before_and_while_it_is_exploited(
    tuned_policy_folder, prompts, tmp_path
):
    reward = crafted_reward_model(tmp_path / "reward", tuned_policy_folder, level=1.0)
    spec = ppo(
        tuned_policy_folder, reward, prompts,
        {"hackable_reward": {"threshold": 0.3}, "length_drift": {"threshold": 0.2}},
        mu="zero", beta=0.0, truncation_cost=0.0, learning_rate=3e-3, steps=12, max_new_tokens=64,
    )  # fmt: skip
    code, lines = run_process("ppo", spec, tmp_path)
    alarms = raised(lines)
    assert code == 0
    assert alarms["hackable_reward"]["step"] == 0
    assert "saying everything twice" in alarms["hackable_reward"]["detail"]
    assert alarms["length_drift"]["value"] > alarms["length_drift"]["threshold"] == 0.2
    assert lines[-1]["result"]["probes"]["twice"] > 0.3 > 0 > lines[-1]["result"]["probes"]["half"]


def test_a_token_that_is_farmed_is_named_and_the_judge_that_falls_meanwhile_too(tuned_policy_folder, prompts, tmp_path):
    token = golden_codec().encode("the")[0]
    reward = crafted_reward_model(tmp_path / "reward", tuned_policy_folder, token=token)
    judge = crafted_reward_model(tmp_path / "judge", tuned_policy_folder, token=token, worth=-5.0)
    spec = ppo(
        tuned_policy_folder,
        reward,
        prompts,
        {"reward_spike": {"threshold": 0.5}},
        beta=0.0,
        learning_rate=1e-2,
        steps=12,
    )
    spec["evaluation"] = {"prompts": str(prompts), "every": 3, "judge": {"path": str(judge)}}
    code, lines = run_process("ppo", spec, tmp_path)
    alarms = raised(lines)
    assert code == 0
    assert repr(golden_codec().decode([token])) in alarms["token_farming"]["detail"]
    assert "one token on and on" in alarms["hackable_reward"]["detail"]
    assert alarms["reward_spike"]["value"] > 0.5
    assert alarms["judge_falls"]["value"] > 0.05
    values = [line["values"] for line in lines if line["type"] == "metrics" and "evaluation_win_rate" in line["values"]]
    assert values[0]["evaluation_win_rate"] == values[0]["evaluation_judge_win_rate"] == 0.5
    assert values[-1]["evaluation_win_rate"] > 0.9 > 0.5 > values[-1]["evaluation_judge_win_rate"]


def test_a_policy_that_runs_away_is_stopped_with_its_checkpoint_kept_and_a_retry_goes_on(
    tuned_policy_folder, prompts, reward_folder, tmp_path
):
    alarms = {"high_kl": {"threshold": 0.1, "action": "stop"}}
    spec = ppo(tuned_policy_folder, reward_folder, prompts, alarms, beta=0.0, learning_rate=1e-2, steps=8)
    code, lines = run_process("ppo", spec, tmp_path)
    alarm = raised(lines)["high_kl"]
    assert (code, lines[-1]["type"], lines[-1]["reason"]) == (1, "failure", "alarm")
    assert f"high_kl at step {alarm['step']}" in lines[-1]["detail"]
    assert alarm["action"] == "stop"
    assert (tmp_path / f"checkpoints/step-{alarm['step']:08d}").is_dir()
    assert alarm["step"] < 8
    code, lines = run_process("ppo", spec, tmp_path)
    assert (code, lines[-1]["type"]) == (0, "result")
    assert "high_kl" not in raised(lines)


def test_an_alarm_that_pauses_waits_and_resumed_the_run_ends_as_if_it_had_only_warned(
    tuned_policy_folder, prompts, reward_folder, tmp_path
):
    spec = ppo(tuned_policy_folder, reward_folder, prompts, beta=0.0, learning_rate=1e-2, steps=6)
    whole, paused = ({**spec, "alarms": {"high_kl": {"threshold": 0.1, "action": a}}} for a in ("warn", "pause"))
    assert run_process("ppo", whole, tmp_path / "whole")[0] == 0
    code, lines = run_process("ppo", paused, tmp_path / "paused")
    assert code == 75
    assert [line["type"] for line in lines[-2:]] == ["alarm", "checkpoint"]
    assert run_process("ppo", paused, tmp_path / "paused")[0] == 0
    assert outcome_digest(tmp_path / "paused") == outcome_digest(tmp_path / "whole")


def test_a_run_killed_after_an_alarm_says_it_again_until_a_checkpoint_holds_it(
    tuned_policy_folder, prompts, reward_folder, tmp_path
):
    alarms = {"hackable_reward": {"threshold": -1000}}
    spec = ppo(tuned_policy_folder, reward_folder, prompts, alarms, steps=4, checkpoint_every=2)
    for step, says_it in ((1, True), (3, True), (4, False)):
        code, lines = run_process("ppo", spec, tmp_path, kill_at_step(step))
        assert code == -signal.SIGKILL
        assert ("hackable_reward" in raised(lines)) == says_it


def test_a_critic_that_does_harm(tuned_policy_folder, prompts, reward_folder, tmp_path):
    spec = ppo(
        tuned_policy_folder, reward_folder, prompts,
        temperature=1e6,  # so hot that whatever the weights, the policy stays as it is, and only the critic overshoots
        critic="separate", learning_rate=1.0, value_clip=1e9, max_grad_norm=1e9, steps=7,
    )  # fmt: skip
    code, lines = run_process("ppo", spec, tmp_path)
    assert code == 0
    assert raised(lines)["value_collapse"]["value"] < -0.5


def test_a_policy_that_does_not_move_has_a_flat_win_rate_from_half_of_the_run_on(
    tuned_policy_folder, prompts, reward_folder, tmp_path
):
    spec = ppo(tuned_policy_folder, reward_folder, prompts, learning_rate=1e-12, steps=4)
    spec["evaluation"] = {"prompts": str(prompts), "every": 1}
    code, lines = run_process("ppo", spec, tmp_path)
    alarm = raised(lines)["flat_win_rate"]
    assert code == 0
    assert (alarm["step"], alarm["value"], alarm["threshold"]) == (2, 0.5, 0.52)


@pytest.mark.parametrize("action", ["stop", "warn"])
def test_updates_that_are_not_finite_change_nothing(action, policy_folder, tmp_path):
    rows = write_rows(tmp_path / "examples.ndjson", examples(64))
    spec = {
        "base_model": {"path": str(policy_folder)},
        "data": {"examples": str(rows)},
        "hyperparameters": {"epochs": 1, "batch_size": 16, "learning_rate": 1e38, "warmup_steps": 0},
        "alarms": {"non_finite": {"threshold": 1, "action": action}},
    }
    code, lines = run_process("sft", spec, tmp_path)
    alarm = raised(lines)["non_finite"]
    assert (alarm["step"], alarm["value"]) == (3, 2)  # the first update breaks the weights, the next two are lost
    if action == "stop":
        assert (code, lines[-1]["reason"]) == (1, "unstable")
    else:
        assert code == 0
        assert lines[-1]["result"]["steps"] == 4


def test_a_reward_run_that_pauses_leaves_no_model_until_somebody_resumes_it(policy_folder, tmp_path):
    rows = write_rows(tmp_path / "labels.ndjson", label_rows(golden_codec(), 24))
    spec = {
        "base_model": {"path": str(policy_folder)},
        "data": {"labels": str(rows)},
        "hyperparameters": {"epochs": 1, "batch_size": 8},
        "alarms": {"low_bad_token_auc": {"threshold": 1.1, "action": "pause"}},
    }
    code, lines = run_process("reward", spec, tmp_path)
    assert code == 75
    assert raised(lines)["low_bad_token_auc"]["threshold"] == 1.1
    assert not (tmp_path / "output/model").exists()
    code, lines = run_process("reward", spec, tmp_path)
    assert code == 0
    assert raised(lines) == {} or set(raised(lines)) == {"low_pair_accuracy"}


# ---- the gate of dense PPO


def test_dense_ppo_refuses_a_model_that_cannot_find_tokens(tuned_policy_folder, prompts, reward_folder, tmp_path):
    import shutil

    blind = shutil.copytree(reward_folder, tmp_path / "blind")
    (blind / "report.json").write_text(json.dumps({"headline": {"bad_token_auc": 0.62}}))
    spec = ppo(tuned_policy_folder, blind, prompts, steps=1)
    code, lines = run_process("ppo", spec, tmp_path / "dense")
    assert (code, lines[-1]["reason"]) == (1, "bad_spec")
    assert "bad_token_auc of 0.620" in lines[-1]["detail"]
    (blind / "report.json").write_text(json.dumps({"test": {}}))  # of a trainer before
    assert run_process("ppo", ppo(tuned_policy_folder, blind, prompts, steps=1), tmp_path / "old")[0] == 0
    (blind / "report.json").write_text(json.dumps({"headline": {"bad_token_auc": 0.62}}))
    for name, own in (("end", {"reward_placement": "end"}), ("asked", {"minimum_bad_token_auc": 0})):
        spec = ppo(tuned_policy_folder, blind, prompts, steps=1, **own)
        assert run_process("ppo", spec, tmp_path / name)[0] == 0


# ---- parts


def test_alarms_of_a_spec_are_checked():
    assert parse_alarms(PpoAlarms, {"high_kl": {"action": "pause"}}).high_kl.threshold == 0.3
    for raw, message in (
        ({"hihg_kl": {}}, "alarms: unknown key 'hihg_kl'"),
        ({"high_kl": {"treshold": 1}}, "alarms.high_kl: unknown key"),
        ({"high_kl": {"threshold": "1"}}, "alarms.high_kl.threshold: expected a number, got '1'"),
        ({"high_kl": {"threshold": math.nan}}, "alarms.high_kl.threshold: expected a number, got nan"),
        ({"high_kl": {"action": "panic"}}, "alarms.high_kl.action: expected one of warn, pause, stop, got 'panic'"),
        ({"high_kl": 0.3}, "alarms.high_kl: expected an object, got float"),
    ):
        with pytest.raises(BadSpec, match=message):
            parse_alarms(PpoAlarms, raw)
    with pytest.raises(BadSpec, match="unknown key 'alarms'"):
        parse_spec({"model": {"path": "."}, "data": {"prompts": "."}, "alarms": {}}, "generate", Path())


def test_a_stop_outweighs_a_pause():
    class Silent:
        def alarm(self, *args, **fields):
            pass

    for first, second in (("stop", "pause"), ("pause", "stop")):
        settings = parse_alarms(PpoAlarms, {"high_kl": {"action": first}, "length_drift": {"action": second}})
        alarms = Alarms(settings, Silent())
        alarms.above("high_kl", 1, 9.0, "")
        alarms.above("length_drift", 1, 9.0, "")
        assert getattr(alarms.halt, "reason", None) == "alarm"


def test_abuses_are_what_their_names_say():
    responses = [[5, 6, 5, 7, EOS], [5, 8]]
    rewards = torch.tensor([[1.0, -1.0, 3.0, 0.5, 0.0], [2.0, -2.0, 0.0, 0.0, 0.0]])
    assert abuses(responses, rewards, EOS, longest=6) == {
        "empty": [[EOS], [EOS]],
        "half": [[5, 6, EOS], [5, EOS]],
        "twice": [[5, 6, 5, 7, 5, EOS], [5, 8, 5, 8, EOS]],
        "one_token": [[5, 5, 5, 5, EOS], [5, 5, EOS]],
    }


def test_shares_and_win_rates_count_what_they_say():
    ids = torch.tensor([[3, 3, EOS, 0], [4, EOS, 0, 0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    shares = token_shares(ids, mask, EOS, 6)
    assert shares[3].item() == pytest.approx(2 / 3)
    assert shares.sum().item() == pytest.approx(1)
    rows, others = ([{"reward": value} for value in values] for values in ((1, 2, 3), (1, 3, 1)))
    assert win_rate(rows, others, "reward") == 0.5
