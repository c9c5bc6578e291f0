"""Where else the metrics of a run go, when a person who runs it by hand asks: TensorBoard, Weights & Biases.

Trackers hear what the Reporter says and change nothing of the run. A run that was killed and resumed has each of its
points once: what was written after the checkpoint that it goes on from is replaced, as all of it is computed again.
"""

import time
import uuid
from pathlib import Path
from typing import Any, Protocol

from .failures import BadSpec

Values = dict[str, float | None]


class Tracker(Protocol):
    def resumed(self, step: int) -> None:
        """The run goes on from the checkpoint of `step`."""

    def metrics(self, step: int, values: Values) -> None: ...

    def checkpoint(self, step: int) -> None:
        """What was told so far will not be told again, however the run goes on."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder`, one for the time after each checkpoint: `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, folder: Path):
        from tensorboardX.event_file_writer import EventsWriter  # in memory only when asked for

        self._open, self._writer = EventsWriter, None
        self._folder, self._checkpoint = folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def resumed(self, step: int) -> None:
        self._checkpoint = step

    def metrics(self, step: int, values: Values) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if self._writer is None:
            for path in self._folder.glob("events.*.after-*"):
                if int(path.name.rpartition("-")[2]) >= self._checkpoint:
                    path.unlink()
            self._writer = self._open(str(self._folder / "events"), f".after-{self._checkpoint:08d}")
            start = SessionLog(status=SessionLog.START)  # a TensorBoard that has read those files forgets what it read
            self._writer.write_event(Event(wall_time=time.time(), step=self._checkpoint + 1, session_log=start))
        scalars = [Summary.Value(tag=name, simple_value=v) for name, v in values.items() if v is not None]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._writer.flush()

    def checkpoint(self, step: int) -> None:
        self.close()
        self._checkpoint = step

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WeightsAndBiases:
    """A run of `project`, the same one after a resume; its server keeps the first of the points that come twice.

    Where it goes, and whether there is a network at all, is wandb's to know (WANDB_MODE, WANDB_BASE_URL, ...).
    """

    def __init__(self, project: str, workdir: Path, spec: dict[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise BadSpec("command line: --wandb: wandb is not installed; pip install wandb==0.31.0") from error
        kept_id = workdir / "wandb-id"
        if not kept_id.is_file():
            kept_id.write_text(uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(
                project=project,
                dir=workdir,
                id=kept_id.read_text(),
                resume="allow",
                config=spec,
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise BadSpec(f"command line: --wandb: {error}") from error

    def resumed(self, step: int) -> None:
        pass

    def metrics(self, step: int, values: Values) -> None:
        self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

    def checkpoint(self, step: int) -> None:
        pass

    def close(self) -> None:
        self._run.finish()
