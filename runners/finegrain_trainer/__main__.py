"""Command line of the trainer: parse the spec, set the process up, run one kind, say how it ended.

`python -m finegrain_trainer KIND --spec spec.json --workdir DIR [--device cuda] [--supervised]
    [--tensorboard] [--wandb PROJECT]`, KIND one of KINDS
`torchrun --nproc-per-node N -m finegrain_trainer KIND ...`: the same by N processes that share the weights, and so does
FINEGRAIN_TRAINER_PROCESSES=N on one machine; not of generate.
`python -m finegrain_trainer export --model FOLDER --output NEW_FOLDER [--texts texts.ndjson]` (servable.py)
Exit codes: 0 done, 75 interrupted with its progress kept, 2 the spec or the data are wrong, 1 everything else.
"""

import argparse
import errno
import gc
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from .failures import (
    Alarmed,
    BadSpec,
    DiskFull,
    DriverMissing,
    Interrupted,
    OutOfMemory,
    TrainerFailure,
    Unstable,
    WrongGpu,
)
from .launch import launch
from .protocol import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    Reporter,
    StopRequest,
    claim_stdout,
)
from .spec import ALARMS, OPTIONS, HubModel, PpoSpec, Spec, read_spec
from .tracking import TensorBoard, Tracker, WeightsAndBiases


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong with the command line as a bad spec, in the protocol."""

    def error(self, message: str) -> NoReturn:
        raise BadSpec(f"command line: {message}")


def main() -> int:
    processes = int(os.environ.get("FINEGRAIN_TRAINER_PROCESSES", "1"))
    if processes > 1 and "RANK" not in os.environ and sys.argv[1:2] and sys.argv[1] in KINDS.keys() - {"generate"}:
        return launch(processes, sys.argv[1:])
    reporter = claim_stdout(quiet=process_rank() > 0)
    try:
        if sys.argv[1:2] == ["export"]:
            reporter.result(export(sys.argv[2:]))
            return EXIT_DONE
        arguments = parse_arguments()
        spec = read_spec(arguments.spec, arguments.kind)
        make_folder(arguments.workdir)
        stop = StopRequest()
        stop.on_signals()
        if arguments.supervised:
            stop.watch_life_line(sys.stdin.fileno())
        reporter.start_heartbeat()
        reporter.progress(0, 1, "load")
        reporter.trackers += open_trackers(arguments)
        run(spec, arguments.kind, arguments.workdir, reporter, stop, arguments.device)
        return EXIT_DONE
    except Interrupted:
        return EXIT_INTERRUPTED
    except Exception as error:
        failure = classify(error)
        if not isinstance(failure, BadSpec):
            traceback.print_exc()
        # what is wrong with a spec or a loss all processes see, and the first one says so; the rest is each one's own
        if process_rank() == 0 or not isinstance(failure, BadSpec | Unstable | Alarmed):
            reporter.failure(failure.reason, str(failure))
        return failure.exit_code
    finally:
        for tracker in reporter.trackers:
            tracker.close()


KINDS = {
    "sft": "fine-tunes a policy on demonstrations, or starts one from random weights",
    "reward": "trains a reward model on edits with token labels, or on preferences",
    "ppo": "trains a policy against a reward model, each token with a reward of its own",
    "dpo": "trains a policy on edits over their originals, or on preferences, without a reward model",
    "generate": "lets a policy answer prompts",
}
EXAMPLES = {
    "sft": """{"base_model": {"scratch": {"hidden_size": 64}}, "data": {"examples": "examples.ndjson"}}""",
    "reward": """{"base_model": {"path": "sft/output/model"}, "loss": "survival",
   "data": {"labels": "labels.ndjson"}}""",
    "ppo": """{"policy": {"path": "sft/output/model"}, "reward_model": {"path": "reward/output/model"},
   "data": {"prompts": "prompts.ndjson"}, "hyperparameters": {"beta": 0.05}}""",
    "dpo": """{"policy": {"path": "sft/output/model"}, "pairs": "edits", "data": {"labels": "labels.ndjson"}}""",
    "generate": """{"model": {"path": "ppo/output/model"}, "data": {"prompts": "prompts.ndjson"}}""",
}


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(
        prog="finegrain_trainer",
        description="Trains models and samples from them, as a spec says; tells how it goes in JSON lines on stdout.",
        epilog="KIND --help shows what a spec of that kind may say; runners/README.md has more.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, purpose in KINDS.items():
        own = kinds.add_parser(
            kind,
            help=purpose,
            description=f"{kind}: {purpose}.",
            epilog=explain(kind),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own.add_argument("--spec", type=Path, required=True, help="spec.json; relative paths in it are from its folder")
        own.add_argument("--workdir", type=Path, required=True, help="checkpoints and output; resumed when it has any")
        own.add_argument(
            "--device", choices=("cpu", "cuda"), default="cpu", help="what to compute on; cuda: a GPU a process"
        )
        own.add_argument(
            "--supervised", action="store_true", help="stdin is a life line: stop when it closes or falls silent"
        )
        own.add_argument("--tensorboard", action="store_true", help="event files of the metrics in WORKDIR/tensorboard")
        own.add_argument(
            "--wandb", metavar="PROJECT", help="the metrics in a project of Weights & Biases, as wandb is set up"
        )
    kinds.add_parser("export", help="makes a token reward model servable: export --help", add_help=False)
    return parser.parse_args()


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise BadSpec(f"command line: --workdir: {path} cannot be a folder to write in: {error.strerror}") from error


def open_trackers(arguments: argparse.Namespace) -> Iterator[Tracker]:
    if arguments.tensorboard:
        yield TensorBoard(arguments.workdir / "tensorboard")
    if arguments.wandb:
        yield WeightsAndBiases(arguments.wandb, arguments.workdir, json.loads(arguments.spec.read_text("utf-8")))


def explain(kind: str) -> str:
    """A spec, and every hyperparameter with its default, its range and its meaning: what spec.py says."""

    def fields_of(part: type) -> list[str]:
        return inspect.getsource(part).splitlines()[2:]  # without the decorator and the name of the class

    lines = ["A spec:", f"  {EXAMPLES[kind]}", ""]
    lines += ["hyperparameters, name: type = option(default, range):", *fields_of(OPTIONS[kind])]
    if kind in ALARMS:
        meaning = '{"threshold": .., "action": "warn", "pause" or "stop"}'
        lines += ["", f"alarms, name: {meaning}; without an action: warn", *fields_of(ALARMS[kind])]
    return "\n".join(lines)


def export(argv: list[str]) -> dict:
    parser = ArgumentParser(prog="finegrain_trainer export", description="Make a reward model servable.")
    parser.add_argument("--model", type=Path, required=True, help="folder of a token reward model in safetensors")
    parser.add_argument("--output", type=Path, required=True, help="a new folder, with reward.onnx and golden.json too")
    parser.add_argument("--texts", type=Path, help="NDJSON {prompt, response}: further texts for golden.json")
    parser.add_argument(
        "--standard",
        action="store_true",
        help="the graph of PyTorch's exporter, which a GPU can score with, slower on CPU",
    )
    arguments = parser.parse_args(argv)
    prepare_libraries()
    from .servable import make_servable

    return make_servable(arguments.model, arguments.output, arguments.texts, arguments.standard)


def run(spec: Spec, kind: str, workdir: Path, reporter: Reporter, stop: StopRequest, device_name: str = "cpu") -> None:
    prepare_libraries(*([spec, spec.evaluation] if isinstance(spec, PpoSpec) and spec.evaluation else [spec]))
    if kind == "generate" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadSpec("command line: generate works in one process; prompts can be split over several runs")
    # after the environment is set, and only for a spec that is worth the seconds
    stage, open_device, joined_processes = load_stage(kind)
    device = open_device(device_name)
    with joined_processes(device):
        result = stage.run(spec, workdir, device, reporter, stop)
    reporter.result(result)


def process_rank() -> int:
    """Which of the processes that torchrun started this one is."""
    return int(os.environ.get("RANK", "0"))


def load_stage(kind: str) -> tuple[ModuleType, Callable, Callable]:
    """The module of a kind, `open_device` and `joined_processes`.

    Python's garbage collector would look again and again at what torch and transformers make for good: an eighth of a
    start.
    """
    gc.disable()
    try:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        from .devices import open_device
        from .parallel import joined_processes

        return importlib.import_module(f".{kind}", __package__), open_device, joined_processes
    finally:
        gc.freeze()
        gc.enable()


def prepare_libraries(*parts: Spec) -> None:
    """Threads as told (one unless FINEGRAIN_TRAINER_THREADS says more), and no network unless the spec names a hub."""
    os.environ["OMP_NUM_THREADS"] = os.environ.get("FINEGRAIN_TRAINER_THREADS", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["TQDM_DISABLE"] = "1"
    names_hub = any(isinstance(value, HubModel) for part in parts for value in vars(part).values())
    os.environ["HF_HUB_OFFLINE"] = "0" if names_hub else "1"


def classify(error: Exception) -> TrainerFailure:
    """The failure to report for any exception."""
    if isinstance(error, TrainerFailure):
        return error
    text = f"{type(error).__name__}: {error}"
    # the libraries that write weights raise errors of their own, with the system's words in them
    if any(words in text for words in ("No space left on device", "Disk quota exceeded")):
        return DiskFull(
            f"{text}. Make room where the workdir is and start the run again: it goes on from its checkpoint"
        )
    if is_out_of_memory(error, text):
        return OutOfMemory(
            f"{text}. A small micro_batch_size, gradient_checkpointing, precision bf16 and lora_rank need less memory; "
            "so does a smaller batch_size"
        )
    if any(words in text for words in LOST_PROCESS):
        return TrainerFailure(f"another process of this run has ended: {text}")
    if "no kernel image is available" in text:
        return WrongGpu(f"{text}. This build of torch has no code for the GPU")
    if "driver version is insufficient" in text or "NVIDIA driver on your system" in text:
        return DriverMissing(text)
    return TrainerFailure(text)


OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator of the host
    "bad_alloc",  # C++ libraries, such as tokenizers' and ONNX Runtime's
    "CUDA error: out of memory",  # where the caching allocator does not ask
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


LOST_PROCESS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # as gloo and NCCL say it


def is_out_of_memory(error: Exception, text: str) -> bool:
    """Memory of the host or of the GPU; `torch.OutOfMemoryError` is told by its name, as torch may not be imported."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(words in text for words in OUT_OF_MEMORY)
    )


def leave(code: int) -> NoReturn:
    """Ends the process. One that worked with others goes without the destructors of C++ libraries: a thread that is
    still there then may abort a run that is done, as it did once at the end of two processes under a runner."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
