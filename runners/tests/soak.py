"""The trainer killed at random instants and at random file operations: the part `kills` of `npm run test:soak`.

    cd runners && PYTHONPATH=. python tests/soak.py [KILLS] [SEED]

Runs of each kind that trains are killed and resumed, at least KILLS times in all, and must leave exactly the files of a
run that nobody disturbed. Says so in JSON lines {"holds", "text"}; progress goes to stderr.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from support import examples, golden_codec, label_rows, run_process, save_random_policy, world_row, write_rows

# A file operation is one that Python's audit hooks tell of: open, mkdir, rename, remove, and the like.
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree")
# How a run is disturbed, attempt after attempt, until it ends or nothing is left of this.
PLAN = ("instant", "checkpoints", "instant", "checkpoints", "output", "output")


def specs(folder: Path) -> dict[str, dict]:
    """One of each kind, of a few seconds; each depends on the one before."""
    rng = random.Random(9)
    prompts = write_rows(folder / "prompts.ndjson", [{"id": f"q{i}", "prompt": world_row(rng)[0]} for i in range(20)])
    policy = {"path": str(save_random_policy(folder / "policy"))}
    return {
        "sft": {
            "base_model": policy,
            "data": {"examples": str(write_rows(folder / "examples.ndjson", examples(64)))},
            "hyperparameters": {"epochs": 8, "batch_size": 16, "learning_rate": 1e-2, "checkpoint_every": 4},
        },
        "reward": {
            "base_model": policy,
            "data": {"labels": str(write_rows(folder / "labels.ndjson", label_rows(golden_codec(), 48)))},
            "hyperparameters": {"epochs": 6, "batch_size": 6, "checkpoint_every": 3, "patience": 5},
        },
        "ppo": {
            "policy": {"path": str(folder / "sft/output/model")},
            "reward_model": {"path": str(folder / "reward/output/model")},
            "data": {"prompts": str(prompts)},
            "evaluation": {"prompts": str(prompts), "every": 4},
            "hyperparameters": {
                "steps": 12, "batch_size": 8, "max_new_tokens": 32, "scale_samples": 16, "checkpoint_every": 2,
                "kl_target": 0.5,
            },
        },
    }  # fmt: skip


def die_at_operation(number: int, place: Path) -> Callable[[object], None]:
    """For the process of a run: it kills itself when the `number`-th file operation in the folder `place` is due."""

    def in_process(_reporter: object) -> None:
        left = number

        def hook(event: str, arguments: tuple) -> None:
            nonlocal left
            if event in OPERATIONS and str(arguments[0]).startswith(str(place)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return in_process


def disturb(how: str, kind: str, spec: dict, workdir: Path, rng: random.Random, seconds: float) -> int:
    """One attempt, killed unless it ends before; its exit code."""
    if how != "instant":
        number = rng.randint(1, 40 if how == "checkpoints" else 12)
        return run_process(kind, spec, workdir, in_process=die_at_operation(number, workdir / how))[0]
    timers: list[threading.Timer] = []

    def arm(pid: int, _line: dict) -> None:
        if not timers:
            timers.append(threading.Timer(rng.uniform(0, seconds), lambda: os.kill(pid, signal.SIGKILL)))
            timers[0].start()

    code, _ = run_process(kind, spec, workdir, arm)
    timers[0].cancel()
    return code


def left_behind(workdir: Path) -> dict[str, str]:
    """Digests of all files of the output and of the last checkpoint, by their names."""
    last = max((workdir / "checkpoints").glob("step-*"))
    files = [p for folder in (workdir / "output", last) for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(workdir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def soak(kind: str, spec: dict, folder: Path, kills: int, rng: random.Random) -> dict:
    """What came of one kind, as a claim."""
    started = time.monotonic()
    code, lines = run_process(kind, spec, folder / kind)
    if code != 0:
        return {"holds": False, "text": f"{kind}: undisturbed it ended with {code}: {lines[-1:]}"}
    seconds, expected = time.monotonic() - started, left_behind(folder / kind)
    inflicted: Counter[str] = Counter()
    runs, broken = 0, []
    while inflicted.total() < kills and not broken:
        workdir = folder / f"{kind}-{runs}"
        code = None
        for how in (*PLAN, "nothing"):
            code = (
                run_process(kind, spec, workdir)[0]
                if how == "nothing"
                else disturb(how, kind, spec, workdir, rng, seconds)
            )
            print(f"{kind}, run {runs}: {how}: {code}", file=sys.stderr)
            if code != -signal.SIGKILL:
                break
            inflicted[how] += 1
        if code != 0:
            broken.append(f"run {runs} ended with {code}")
        elif (actual := left_behind(workdir)) != expected:
            names = [n for n in sorted(actual.keys() | expected.keys()) if actual.get(n) != expected.get(n)]
            broken.append(f"run {runs} left other files: {', '.join(names)}")
        runs += 1
        shutil.rmtree(workdir)
    how_often = (
        f"{inflicted['instant']} at random instants, {inflicted['checkpoints']} while a checkpoint was looked for, "
        f"written or removed, {inflicted['output']} while the output was written"
    )
    text = f"{kind}: {runs} runs killed {inflicted.total()} times ({how_often}) left the files of an undisturbed one"
    return {"holds": not broken, "text": "; ".join([text, *broken])}


def main() -> int:
    kills, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 30, int(sys.argv[2]) if len(sys.argv) > 2 else 1
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    rng = random.Random(seed)
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, spec in specs(Path(folder)).items():
            claims.append(soak(kind, spec, Path(folder), -(-kills // 3), rng))
            print(json.dumps(claims[-1]), flush=True)
    return 0 if all(claim["holds"] for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
