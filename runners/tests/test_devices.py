"""Why a run on CUDA cannot start: each cause has its reason and says what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finegrain_trainer.devices import (
    Device,
    DeviceReport,
    failure_of,
    has_code_for,
    inspect_devices,
    open_device,
    why_no_cuda,
    why_unsupported,
)
from finegrain_trainer.failures import DriverMissing


@pytest.mark.parametrize(
    ("build", "driver", "visible", "words"),
    [
        (None, None, None, "build for CPU"),
        ("13.0", None, None, "no NVIDIA driver"),
        ("13.0", "12.8", None, "too old: it goes up to CUDA 12.8, and torch is built for 13.0"),
        ("12.10", "12.9", None, "too old"),
        ("13.0", "13.1", None, "shows no GPU"),
        ("13.0", "13.1", "", "CUDA_VISIBLE_DEVICES is ''"),
    ],
)
def test_a_missing_gpu_is_explained(build, driver, visible, words):
    assert words in why_no_cuda(build, driver, visible)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["sm_75", "sm_80", "sm_90"], (9, 0), True),
        (["sm_75", "sm_80"], (8, 9), True),  # machine code of an earlier minor version
        (["sm_89"], (8, 6), False),
        (["sm_80", "sm_90"], (7, 0), False),
        (["sm_80", "sm_90"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),  # PTX, compiled by the driver
        (["compute_90"], (8, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["sm_100f"], (10, 3), True),
        (["gfx90a"], (9, 0), False),
    ],
)
def test_a_gpu_is_told_from_one_that_the_build_has_no_code_for(architectures, capability, runs):
    assert has_code_for(architectures, capability) == runs


def test_a_gpu_without_code_is_a_wrong_gpu_and_none_at_all_a_missing_driver():
    def report(devices, problem):
        return failure_of(DeviceReport("2.13.0", "13.0", "13.0", devices, problem))

    old, new = Device("Tesla V100", 1 << 34, "7.0", False), Device("H100", 1 << 36, "9.0", True)
    assert report([new], why_unsupported(new)) is None
    wrong = report([old], why_unsupported(old))
    assert (wrong.reason, "Tesla V100 (compute capability 7.0)" in str(wrong)) == ("wrong_gpu", True)
    assert report([], "there is no driver").reason == "driver_missing"


def test_the_report_of_this_machine_is_json_and_agrees_with_torch():
    command = [sys.executable, "-m", "finegrain_trainer.devices"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60)
    report = json.loads(done.stdout)
    assert report["torch"] == torch.__version__
    assert len(report["devices"]) == torch.cuda.device_count()
    assert (report["problem"] is None) == torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_and_cpu_is_not():
    assert open_device("cpu") == torch.device("cpu")
    with pytest.raises(DriverMissing, match=inspect_devices().problem[:20]):
        open_device("cuda")
