"""The ways a run can end badly. `reason` is what the failure line on stdout says; `exit_code` is the process's."""


class TrainerFailure(Exception):
    """A run that cannot go on; the message is written for the person who queued it."""

    reason = "error"
    exit_code = 1


class BadSpec(TrainerFailure):
    """The spec or a row of its data is wrong; the message names the file, the line and the key."""

    reason = "bad_spec"
    exit_code = 2


class OutOfMemory(TrainerFailure):
    reason = "out_of_memory"


class DiskFull(TrainerFailure):
    """No room is left in the work folder: not the run's fault, another attempt goes on from its last checkpoint."""

    reason = "disk_full"


class DriverMissing(TrainerFailure):
    """The run asks for CUDA, and there is no GPU that torch could use."""

    reason = "driver_missing"


class WrongGpu(TrainerFailure):
    """The GPU that is there is none that this build of torch can compute on."""

    reason = "wrong_gpu"


class Unstable(TrainerFailure):
    """A loss or a gradient is no longer a finite number."""

    reason = "unstable"


class Alarmed(TrainerFailure):
    """An alarm whose action is `stop`."""

    reason = "alarm"


class ExportMismatch(TrainerFailure):
    """The exported ONNX graph does not compute what PyTorch computes."""

    reason = "export_mismatch"


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM, lost parent, an alarm) and has kept its progress: exit code 75."""
