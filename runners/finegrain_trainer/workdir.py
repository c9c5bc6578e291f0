"""What a run leaves in its working directory: finished outputs appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .checkpoint import sync
from .spec import Spec

NOT_OF_THE_RUN = ("rollouts_every", "micro_batch_size", "gradient_checkpointing")


@contextmanager
def finish_folder(workdir: Path, name: str) -> Iterator[Path]:
    """A folder to fill; it becomes workdir/output/<name> when the block ends without an error."""
    output = workdir / "output"
    aside, final = output / f".{name}.writing", output / name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    for path in aside.rglob("*"):
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    sync(output)


def finish_file(workdir: Path, name: str, text: str) -> None:
    """Writes workdir/output/<name> in one piece."""
    output = workdir / "output"
    output.mkdir(parents=True, exist_ok=True)
    aside = output / f".{name}.writing"
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.rename(output / name)
    sync(output)


def run_identity(spec: Spec, **digests: Any) -> dict[str, Any]:
    """What must be equal for a checkpoint to be taken up: kind, seed, hyperparameters and the content of all inputs.

    Paths do not count: a run may go on in another folder or on another machine. Nor does what is only looked at, and
    what changes how much memory it takes and no more than the last bits of its figures.
    """
    options = {name: value for name, value in asdict(spec.options).items() if name not in NOT_OF_THE_RUN}
    return {"kind": type(spec).__name__, "seed": spec.seed, "options": options, **digests}
