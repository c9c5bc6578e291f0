"""Which device a run computes on, and in plain words why it cannot be had.

`python -m finegrain_trainer.devices` prints what this machine offers as one JSON object: `torch`, the `cuda` version it
was built for, `driver` (the CUDA version of the driver), the `devices`, and `problem`, why none of them can be used.
"""

import ctypes
import json
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .failures import DriverMissing, TrainerFailure, WrongGpu

CPU_BUILD = (
    "this torch is a build for CPU. Install requirements.lock with a CUDA build of torch, as "
    "docker/scripts/install-python.sh cuda does"
)
NO_DRIVER = (
    "there is no NVIDIA driver (libcuda.so.1 is not found). On the machine itself install the driver; a container sees "
    "it only when it is started with GPUs (docker run --gpus all, or nvidia.com/gpu in the limits of a pod)"
)
ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


@dataclass(frozen=True)
class Device:
    """One GPU; `supported`: this build of torch has code for its `capability`."""

    name: str
    memory_bytes: int
    capability: str
    supported: bool


@dataclass(frozen=True)
class DeviceReport:
    torch: str
    cuda: str | None
    driver: str | None
    devices: list[Device]
    problem: str | None


def open_device(name: str) -> torch.device:
    """The device of `--device`; of several processes on a machine each takes the GPU of its number.

    Raises DriverMissing or WrongGpu with what to do about it.
    """
    if name == "cpu":
        return torch.device("cpu")
    report = inspect_devices()
    if failure := failure_of(report):
        raise failure
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= len(report.devices):
        raise DriverMissing(f"process {number} has no GPU: there are {len(report.devices)}; start as many processes")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def failure_of(report: DeviceReport) -> TrainerFailure | None:
    """Why a run on CUDA would fail: there must be a GPU, and the first one is taken."""
    if report.problem is None:
        return None
    return WrongGpu(report.problem) if report.devices else DriverMissing(report.problem)


def inspect_devices() -> DeviceReport:
    driver = driver_version()
    devices = list_devices() if torch.cuda.is_available() else []
    if devices:
        problem = why_unsupported(devices[0])
    else:
        problem = why_no_cuda(torch.version.cuda, driver, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return DeviceReport(torch.__version__, torch.version.cuda, driver, devices, problem)


def list_devices() -> list[Device]:
    architectures = torch.cuda.get_arch_list()
    devices = []
    for index in range(torch.cuda.device_count()):
        seen = torch.cuda.get_device_properties(index)
        supported = has_code_for(architectures, (seen.major, seen.minor))
        devices.append(Device(seen.name, seen.total_memory, f"{seen.major}.{seen.minor}", supported))
    return devices


def why_no_cuda(build: str | None, driver: str | None, visible: str | None) -> str:
    """Why torch, built for CUDA `build`, finds no GPU with the driver's CUDA version and CUDA_VISIBLE_DEVICES."""
    if build is None:
        return CPU_BUILD
    if driver is None:
        return NO_DRIVER
    if as_numbers(driver) < as_numbers(build):
        return f"the NVIDIA driver is too old: it goes up to CUDA {driver}, and torch is built for {build}; update it"
    hidden = f"; CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ""
    return f"the NVIDIA driver is there and shows no GPU{hidden}. Give this process or container a GPU"


def why_unsupported(device: Device) -> str | None:
    if device.supported:
        return None
    return (
        f"torch {torch.__version__} has no code for the {device.name} (compute capability {device.capability}), only "
        f"for {', '.join(torch.cuda.get_arch_list())}. Use another GPU or another build of torch"
    )


def has_code_for(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether a build runs on a GPU: machine code of its major version and no later minor one, or older PTX."""
    for architecture in architectures:
        match = ARCHITECTURE.fullmatch(architecture)
        if not match:
            continue
        kind, suffix = match[1], match[4]
        built = (int(match[2]), int(match[3]))
        if suffix == "a":  # this very GPU and no other
            fits = built == capability
        elif kind == "compute" and not suffix:
            fits = built <= capability
        else:
            fits = built[0] == capability[0] and built[1] <= capability[1]
        if fits:
            return True
    return False


def driver_version() -> str | None:
    """The newest CUDA version that the installed driver can serve; None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def report_json() -> dict[str, Any]:
    return asdict(inspect_devices())


if __name__ == "__main__":
    print(json.dumps(report_json()))
