"""Several processes that share the weights of a run go the way of one, can be killed, stopped and replaced by one."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import (
    examples,
    golden_codec,
    kill_at_step,
    label_rows,
    outcome_digest,
    run_process,
    world_row,
    write_rows,
)

RUNNERS = Path(__file__).parents[1]
OnLine = Callable[[list[int], dict], None]


@pytest.fixture(scope="module")
def specs(tmp_path_factory, policy_folder, tuned_policy_folder, reward_folder) -> dict[str, dict]:
    """Batches that two processes cannot share evenly, and last batches of one row."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(9)
    prompts = [{"id": f"q{i}", "prompt": world_row(rng)[0]} for i in range(20)]
    files = {
        "examples": write_rows(folder / "examples.ndjson", examples(64)),
        "labels": write_rows(folder / "labels.ndjson", label_rows(golden_codec(), 50)),
        "prompts": write_rows(folder / "prompts.ndjson", prompts),
    }
    data = {key: {key: str(path)} for key, path in files.items()}
    data["unseen"] = {"prompts": str(write_rows(folder / "unseen.ndjson", prompts[:5]))}
    ppo = {"steps": 3, "batch_size": 5, "max_new_tokens": 16, "scale_samples": 8, "checkpoint_every": 1}
    return {
        "sft": {
            "base_model": {"path": str(policy_folder)}, "data": data["examples"],
            "hyperparameters": {"epochs": 2, "batch_size": 11, "checkpoint_every": 3},
        },
        "reward": {
            "base_model": {"path": str(policy_folder)}, "data": data["labels"],
            "hyperparameters": {"epochs": 2, "batch_size": 8, "checkpoint_every": 3},
        },
        "dpo": {
            "policy": {"path": str(policy_folder)}, "data": data["labels"],
            "hyperparameters": {"epochs": 3, "batch_size": 7, "checkpoint_every": 3},
        },
        "ppo": {
            "policy": {"path": str(tuned_policy_folder)}, "reward_model": {"path": str(reward_folder)},
            "data": data["prompts"], "evaluation": {**data["unseen"], "every": 3}, "hyperparameters": ppo,
        },
    }  # fmt: skip


def run_two(kind: str, spec: dict, workdir: Path, on_line: OnLine = lambda pids, line: None) -> tuple[list[int], list]:
    """Runs a kind in two forked processes as torchrun would; their exit codes, and the lines of both.

    `on_line(pids, line)` sees every line while they live.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    reading, writing = os.pipe()
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {name: str(value) for name, value in {**variables, "MASTER_PORT": port}.items()}
            os._exit(run_rank(kind, spec, workdir, writing, rank))
        pids.append(pid)
    os.close(writing)
    lines = []
    with os.fdopen(reading, encoding="utf-8") as stream:
        for text in stream:
            if text.endswith("\n"):
                lines.append(json.loads(text))
                on_line(pids, lines[-1])
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], lines


def run_rank(kind: str, spec: dict, workdir: Path, writing: int, rank: int) -> int:
    from finegrain_trainer.__main__ import classify, run
    from finegrain_trainer.failures import Interrupted
    from finegrain_trainer.protocol import EXIT_DONE, EXIT_INTERRUPTED, Reporter, StopRequest
    from finegrain_trainer.spec import parse_spec

    reporter = Reporter(writing, quiet=rank > 0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        stop = StopRequest()
        stop.on_signals()
        run(parse_spec(spec, kind, workdir), kind, workdir, reporter, stop)
        return EXIT_DONE
    except Interrupted:
        return EXIT_INTERRUPTED
    except Exception as error:
        failure = classify(error)
        reporter.failure(failure.reason, str(failure))
        return failure.exit_code


def kill_all_at_step(step: int) -> OnLine:
    def on_line(pids: list[int], line: dict) -> None:
        if line["type"] == "progress" and line["stage"] == "train" and line["step"] == step:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    return on_line


def figures(lines: list[dict]) -> list[dict]:
    rows = [{"step": line["step"]} | line["values"] for line in lines if line["type"] == "metrics"]
    for row in rows:
        row.pop("tokens_per_second", None)
    return rows


@pytest.fixture(scope="module")
def by_two(specs, tmp_path_factory):
    """Workdir and lines of each kind, run by two processes without any disturbance, once."""
    outcomes = {}

    def outcome(kind: str) -> tuple[Path, list[dict]]:
        if kind not in outcomes:
            workdir = tmp_path_factory.mktemp(f"{kind}-2")
            codes, lines = run_two(kind, specs[kind], workdir)
            assert codes == [0, 0], lines[-1]
            outcomes[kind] = (workdir, lines)
        return outcomes[kind]

    return outcome


@pytest.mark.parametrize(
    "kind", ["sft", "ppo", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("reward", "dpo"))]
)
def test_two_processes_go_the_way_of_one(kind, specs, by_two, tmp_path):
    code, alone = run_process(kind, specs[kind], tmp_path)
    assert code == 0
    expected, actual = figures(alone), figures(by_two(kind)[1])
    assert len(actual) == len(expected) > 2
    for a, b in zip(actual, expected, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    said = [[line["type"] for line in lines if line["type"] != "progress"] for lines in (alone, by_two(kind)[1])]
    assert said[0] == said[1]
    folders = [{p.name for p in (w / "output/model").iterdir()} for w in (tmp_path, by_two(kind)[0])]
    assert folders[0] == folders[1]


@pytest.mark.parametrize("kind", ["sft", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("reward", "ppo"))])
def test_two_processes_killed_and_resumed_equal_undisturbed_ones_bit_for_bit(kind, specs, by_two, tmp_path):
    codes, _ = run_two(kind, specs[kind], tmp_path, kill_all_at_step(2 if kind == "ppo" else 4))
    assert codes == [-signal.SIGKILL] * 2
    assert not (tmp_path / "output/model").exists()
    codes, lines = run_two(kind, specs[kind], tmp_path)
    assert codes == [0, 0]
    assert any("resuming after step" in line.get("message", "") for line in lines)
    assert outcome_digest(tmp_path) == outcome_digest(by_two(kind)[0])


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed_and_two_where_one_was(specs, by_two, tmp_path):
    spec, expected = specs["sft"], figures(by_two("sft")[1])[-1]
    run_two("sft", spec, tmp_path / "two-one", kill_all_at_step(5))
    code, lines = run_process("sft", spec, tmp_path / "two-one")
    assert code == 0
    assert figures(lines)[-1] == pytest.approx(expected, abs=1e-4)
    run_process("sft", spec, tmp_path / "one-two", kill_at_step(5))
    codes, lines = run_two("sft", spec, tmp_path / "one-two")
    assert codes == [0, 0]
    assert any("resuming after step 3" in line.get("message", "") for line in lines)
    assert figures(lines)[-1] == pytest.approx(expected, abs=1e-4)


def test_a_stop_that_one_process_hears_stops_both_after_the_same_step(specs, by_two, tmp_path):
    def on_line(pids: list[int], line: dict) -> None:
        if line.get("stage") == "train" and line["step"] == 4:
            os.kill(pids[1], signal.SIGTERM)

    codes, lines = run_two("sft", specs["sft"], tmp_path, on_line)
    assert codes == [75, 75]
    assert lines[-1]["type"] == "checkpoint"
    assert run_two("sft", specs["sft"], tmp_path)[0] == [0, 0]
    assert outcome_digest(tmp_path) == outcome_digest(by_two("sft")[0])


@pytest.mark.slow
def test_an_alarm_that_pauses_or_stops_ends_both_with_the_checkpoint_kept(specs, tmp_path):
    for action, code in (("pause", 75), ("stop", 1)):
        spec = {**specs["ppo"], "alarms": {"hackable_reward": {"threshold": -1000, "action": action}}}
        codes, lines = run_two("ppo", spec, tmp_path / action)
        assert codes == [code, code]
        assert (tmp_path / action / "checkpoints/step-00000000").is_dir()
        assert [line["type"] for line in lines].count("alarm") == 1
    assert run_two("ppo", spec, tmp_path / "stop")[0] == [0, 0]


def test_when_one_process_dies_the_other_ends_too_and_says_so(specs, tmp_path):
    def on_line(pids: list[int], line: dict) -> None:
        if line.get("stage") == "train" and line["step"] == 4:
            os.kill(pids[1], signal.SIGKILL)

    codes, lines = run_two("sft", specs["sft"], tmp_path, on_line)
    assert codes == [1, -signal.SIGKILL]
    assert "another process of this run has ended" in lines[-1]["detail"]
    assert not (tmp_path / "output/model").exists()


def test_the_first_failure_that_is_said_is_that_of_the_process_that_failed(specs, tmp_path, monkeypatch):
    from finegrain_trainer import sft

    learning_rate = sft.learning_rate

    def fails_in_the_second(step: int, *others) -> float:
        if os.environ.get("RANK") == "1" and step == 4:
            raise MemoryError("no room here")
        return learning_rate(step, *others)

    monkeypatch.setattr(sft, "learning_rate", fails_in_the_second)
    codes, lines = run_two("sft", specs["sft"], tmp_path)
    assert codes == [1, 1]
    failures = [line for line in lines if line["type"] == "failure"]
    assert failures[0]["reason"] == "out_of_memory"
    assert "another process of this run has ended" in failures[-1]["detail"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_said_once(specs, tmp_path):
    spec = {**specs["sft"], "hyperparameters": {"learning_rate": 1e30, "warmup_steps": 0}}
    codes, lines = run_two("sft", spec, tmp_path)
    assert codes == [1, 1]
    assert "unstable" in {line["reason"] for line in lines if line["type"] == "failure"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ppo", {"critic": "separate"}),
        ("ppo", {"advantage": "leave_one_out", "samples_per_prompt": 5}),
        ("reward", {"patience": 1}),
    ],
)
def test_other_ways_of_training_go_the_same_way_by_two(kind, options, specs, tmp_path):
    spec = {**specs[kind], "hyperparameters": {**specs[kind]["hyperparameters"], **options}}
    code, alone = run_process(kind, spec, tmp_path / "one")
    codes, lines = run_two(kind, spec, tmp_path / "two")
    assert (code, codes) == (0, [0, 0])
    for a, b in zip(figures(lines), figures(alone), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "ppo"])
def test_recomputed_layers_and_logits_in_pieces_change_nothing_with_sharded_weights(
    kind, specs, by_two, tmp_path, monkeypatch
):
    from finegrain_trainer import models

    monkeypatch.setattr(models, "LOGITS_AT_A_TIME", 400 * 50)  # of 50 tokens
    options = {"gradient_checkpointing": True, "micro_batch_size": 3}
    spec = {**specs[kind], "hyperparameters": {**specs[kind]["hyperparameters"], **options}}
    codes, lines = run_two(kind, spec, tmp_path)
    assert codes == [0, 0]
    for a, b in zip(figures(lines), figures(by_two(kind)[1]), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "reward", "ppo"])
def test_lora_in_bfloat16_goes_the_same_way_by_two_and_survives_a_kill(kind, specs, tmp_path):
    options = {"lora_rank": 4, "precision": "bf16", "gradient_checkpointing": True, "micro_batch_size": 2}
    spec = {**specs[kind], "hyperparameters": {**specs[kind]["hyperparameters"], **options}}
    codes, lines = run_two(kind, spec, tmp_path / "whole")
    assert codes == [0, 0]
    if kind != "ppo":  # in bfloat16 a response may take another turn
        alone = run_process(kind, spec, tmp_path / "alone")[1]
        pairs = zip(figures(lines), figures(alone), strict=True)
        assert all(a["loss"] == pytest.approx(b["loss"], abs=0.02) for a, b in pairs if "loss" in a)
    run_two(kind, spec, tmp_path / "killed", kill_all_at_step(2 if kind == "ppo" else 4))
    assert run_two(kind, spec, tmp_path / "killed")[0] == [0, 0]
    assert outcome_digest(tmp_path / "killed") == outcome_digest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "FINEGRAIN_TRAINER_PROCESSES"])
def test_the_program_itself_under(launcher, specs, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(specs["sft"]))
    arguments = ["finegrain_trainer", "sft", "--spec", str(tmp_path / "spec.json"), "--workdir", str(tmp_path / "w")]
    if launcher == "torchrun":
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        command, more = [sys.executable, "-m", *torchrun, *arguments], {}
    else:
        command, more = [sys.executable, "-m", *arguments, "--supervised"], {launcher: "2"}
    process = subprocess.Popen(
        command, cwd=RUNNERS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | more
    )
    lines = [json.loads(text) for text in process.stdout]
    assert process.wait(timeout=60) == 0
    assert [line["type"] for line in lines].count("result") == 1


@pytest.mark.slow
def test_the_launcher_passes_on_a_stop_and_the_exit_code(specs, tmp_path):
    spec = {**specs["sft"], "hyperparameters": {"epochs": 100_000}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "finegrain_trainer", "sft", "--spec", str(tmp_path / "spec.json")]
    process = subprocess.Popen(
        [*command, "--workdir", str(tmp_path / "w"), "--supervised"], cwd=RUNNERS, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=os.environ | {"FINEGRAIN_TRAINER_PROCESSES": "2"},
    )  # fmt: skip
    lines = []
    for text in process.stdout:
        lines.append(json.loads(text))
        if lines[-1].get("stage") == "train" and lines[-1]["step"] == 3:
            process.stdin.close()  # the life line of the first process
    assert process.wait(timeout=60) == 75
    assert lines[-1]["type"] == "checkpoint"
