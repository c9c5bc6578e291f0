"""Event files hold what the run said, each point once, however often it was killed; and nothing of the run changes."""

import json
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import golden_codec, kill_at_step, label_rows, outcome_digest, run_process, world_row, write_rows

from finegrain_trainer.failures import BadSpec
from finegrain_trainer.protocol import Reporter
from finegrain_trainer.tracking import TensorBoard, WeightsAndBiases

RUNNERS = Path(__file__).parents[1]
OF_THE_MACHINE = "tokens_per_second"


@pytest.fixture(scope="module")
def specs(tmp_path_factory, policy_folder, tuned_policy_folder, reward_folder):
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "labels.ndjson", label_rows(golden_codec(), 48))
    rng = random.Random(9)
    write_rows(folder / "prompts.ndjson", [{"id": f"q{i}", "prompt": world_row(rng)[0]} for i in range(20)])
    return {
        "reward": {
            "base_model": {"path": str(policy_folder)},
            "data": {"labels": str(folder / "labels.ndjson")},
            "hyperparameters": {"epochs": 3, "batch_size": 6, "checkpoint_every": 3},
        },
        "ppo": {
            "policy": {"path": str(tuned_policy_folder)},
            "reward_model": {"path": str(reward_folder)},
            "data": {"prompts": str(folder / "prompts.ndjson")},
            "evaluation": {"prompts": str(folder / "prompts.ndjson"), "every": 4},
            "hyperparameters": {
                "steps": 8, "batch_size": 6, "max_new_tokens": 32, "scale_samples": 12, "checkpoint_every": 2,
            },
        },
    }  # fmt: skip


def read_scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of all event files in the order of their writing; a TFRecord is a length, its checksum, the
    data, their checksum."""
    from tensorboardX.proto.event_pb2 import Event

    scalars = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name.rpartition("-")[2]):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            scalars += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += length + 16
    return scalars


def said(lines: list[dict]) -> list[tuple[str, int]]:
    return [
        (name, line["step"])
        for line in lines
        if line["type"] == "metrics"
        for name, value in line["values"].items()
        if value is not None
    ]


@pytest.mark.parametrize(
    ("kind", "kills"), [pytest.param("ppo", (1, 5, 7), marks=pytest.mark.slow), ("reward", (4, 11))]
)
def test_killed_and_resumed_each_point_is_there_once_with_its_value(kind, kills, specs, tmp_path):
    def run(folder: Path, *more) -> tuple[int, list[dict]]:
        def track(reporter: Reporter) -> None:
            reporter.trackers.append(TensorBoard(folder / "tensorboard"))

        return run_process(kind, specs[kind], folder, *more, in_process=track)

    code, lines = run(tmp_path / "whole")
    whole = read_scalars(tmp_path / "whole/tensorboard")
    assert (code, [(tag, step) for tag, step, _ in whole]) == (0, said(lines))

    def on_line(step: int):
        by_step = kill_at_step(step)

        def kill(pid: int, line: dict) -> None:
            if line["type"] == "metrics":  # what was said is written before anything else happens
                by_step(pid, {"type": "progress", "stage": "train", "step": line["step"]})

        return kill if kind == "ppo" else by_step

    for step in kills:
        assert run(tmp_path / "killed", on_line(step))[0] == -signal.SIGKILL
    assert run(tmp_path / "killed")[0] == 0
    again = read_scalars(tmp_path / "killed/tensorboard")
    assert [p for p in again if p[0] != OF_THE_MACHINE] == [p for p in whole if p[0] != OF_THE_MACHINE]
    assert len(again) == len(whole)

    assert run_process(kind, specs[kind], tmp_path / "untracked")[0] == 0
    assert outcome_digest(tmp_path / "untracked") == outcome_digest(tmp_path / "killed")


def test_nobody_who_did_not_ask_pays_for_it():
    check = "import sys, finegrain_trainer.__main__; sys.exit('tensorboardX' in sys.modules or 'wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=RUNNERS, timeout=60, check=True)


def test_wandb_that_is_not_installed_is_a_bad_spec_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadSpec, match="pip install wandb"):
        WeightsAndBiases("project", tmp_path, {})


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Of a .wandb file: 7 bytes, then LevelDB's log format, whose records are cut where a block of 32 KiB ends."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, part = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last of several
            yield record
            record = b""


def test_wandb_gets_every_metric_in_one_run_that_a_resume_goes_on_with(specs, monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="not among the trainer's packages; pip install it to run this")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    spec = specs["ppo"]
    command = [sys.executable, "-m", "finegrain_trainer", "ppo", "--spec", str(tmp_path / "spec.json")]
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command += ["--workdir", str(tmp_path / "w"), "--wandb", "a-project"]
    ids, points = set(), []
    for _ in range(2):
        done = subprocess.run(command, cwd=RUNNERS, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            json.loads(line)
    for path in sorted((tmp_path / "w/wandb").glob("offline-run-*/*.wandb")):
        for record in map(Record.FromString, wandb_records(path.read_bytes())):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            elif record.WhichOneof("record_type") == "history":
                points.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
    assert ids == {(tmp_path / "w/wandb-id").read_text()}
    steps = [int(point["_step"]) for point in points if "reward_sum" in point]
    assert steps == list(range(1, 9))
