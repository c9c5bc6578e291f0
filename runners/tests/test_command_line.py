"""The program as a runner starts it: arguments, exit codes, the life line, and nothing but protocol on stdout."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from support import examples, write_rows

from finegrain_trainer.__main__ import EXAMPLES, classify
from finegrain_trainer.spec import OPTIONS, parse_spec

RUNNERS = Path(__file__).parents[1]


def command(kind: str, spec: Path, workdir: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "finegrain_trainer", kind, "--spec", str(spec), "--workdir", str(workdir), *more]


def write_spec(folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "examples.ndjson", examples(64))
    shape = {"hidden_size": 16, "num_heads": 2, "vocab_size": 300}
    spec = {"kind": "sft", "base_model": {"scratch": shape}, "data": {"examples": "examples.ndjson"}, **changes}
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder / "spec.json"


def test_bad_specs_and_bad_arguments_exit_with_2_and_one_line(tmp_path):
    spec = write_spec(tmp_path, hyperparameters={"epocs": 1})
    cases = [
        (command("sft", spec, tmp_path), "spec.json: hyperparameters: unknown key 'epocs'"),
        (command("sft", tmp_path / "none.json", tmp_path), "cannot be read"),
        (command("sft", write_spec(tmp_path / "good"), spec), "--workdir: "),
        (command("kto", spec, tmp_path), "command line: argument KIND: invalid choice"),
    ]
    for arguments, message in cases:
        done = subprocess.run(arguments, cwd=RUNNERS, capture_output=True, text=True, timeout=60)
        line = json.loads(done.stdout)
        assert (done.returncode, line["type"], line["reason"]) == (2, "failure", "bad_spec")
        assert message in line["detail"]


@pytest.mark.parametrize("kind", OPTIONS)
def test_help_explains_a_spec_that_works_and_every_hyperparameter(kind, tmp_path):
    arguments = [sys.executable, "-m", "finegrain_trainer", kind, "--help"]
    told = subprocess.run(arguments, cwd=RUNNERS, capture_output=True, text=True, timeout=60, check=True).stderr
    assert all(f"{option.name}: " in told for option in fields(OPTIONS[kind]))
    for path in re.findall(r'"path": "(.+?)"', EXAMPLES[kind]):
        (tmp_path / path).mkdir(parents=True)
    for file in re.findall(r'"(\w+\.ndjson)"', EXAMPLES[kind]):
        (tmp_path / file).touch()
    assert parse_spec(json.loads(EXAMPLES[kind]), kind, tmp_path)
    assert EXAMPLES[kind] in told


def test_a_supervised_run_speaks_json_only_and_stops_when_its_life_line_closes(tmp_path):
    spec = write_spec(tmp_path, hyperparameters={"epochs": 100_000, "batch_size": 64})
    arguments = command("sft", spec, tmp_path / "w", "--supervised")
    process = subprocess.Popen(arguments, cwd=RUNNERS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines, spoke = [], []
    for text in process.stdout:
        lines.append(json.loads(text))
        spoke.append(time.monotonic())
        if lines[-1].get("stage") == "train" and lines[-1]["step"] == 3:
            process.stdin.close()
    assert process.wait(timeout=30) == 75
    assert lines[0] == {"type": "progress", "step": 0, "total_steps": 1, "stage": "load"}
    assert lines[-1]["type"] == "checkpoint"
    trained = next(at for at, line in zip(spoke, lines, strict=True) if line.get("stage") == "train")
    repeated = [line for line in lines[1:] if line.get("stage") == "load"]
    assert repeated or trained - spoke[0] < 2.5, "progress is due every 2 s, also while libraries load"


def run_trainer(arguments: list[str], memory: int | None = None) -> tuple[int, dict]:
    """Exit code and last line of a run, which may have at most `memory` bytes of address space."""
    limit = (lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))) if memory else None
    done = subprocess.run(arguments, cwd=RUNNERS, capture_output=True, text=True, timeout=120, preexec_fn=limit)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_on_a_machine_without_it_fails_before_anything_is_loaded_and_says_why(tmp_path):
    arguments = command("sft", write_spec(tmp_path), tmp_path / "w", "--device", "cuda")
    code, line = run_trainer(arguments)
    assert (code, line["type"], line["reason"]) == (1, "failure", "driver_missing")
    assert ("build for CPU" in line["detail"]) == (torch.version.cuda is None)
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_model_that_does_not_fit_into_memory_ends_as_out_of_memory(tmp_path):
    shape = {"hidden_size": 8192, "num_heads": 8, "num_layers": 128, "vocab_size": 300}
    arguments = command("sft", write_spec(tmp_path, base_model={"scratch": shape}), tmp_path / "w")
    code, line = run_trainer(arguments, memory=1500 << 20)
    assert (code, line["type"], line["reason"]) == (1, "failure", "out_of_memory")
    assert "batch_size" in line["detail"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (OSError(12, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "wrong_gpu"),
        (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), "driver_missing"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "disk_full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk_full"),
        (RuntimeError("index out of range"), "error"),
    ],
)
def test_failures_are_named(error, reason):
    assert classify(error).reason == reason
