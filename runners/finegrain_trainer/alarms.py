"""Alarms: what a run watches for, with the threshold and the action that its spec names.

Each is raised once in a run, which its checkpoints remember: whoever resumes a run that an alarm has paused, or retries
one that it has stopped, has seen it and goes on regardless.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .failures import Alarmed, Interrupted, TrainerFailure, Unstable
from .parallel import agreed
from .protocol import Reporter, StopRequest
from .spec import PpoAlarms, RewardAlarms, UpdateAlarms


class Alarms:
    """`halt`: what to raise once the step's checkpoint is written; None while the run may go on."""

    def __init__(self, settings: UpdateAlarms | RewardAlarms | PpoAlarms, reporter: Reporter):
        self._settings = settings
        self._reporter = reporter
        self._raised: list[str] = []
        self._lost_updates = 0
        self.halt: Exception | None = None

    def state(self) -> dict[str, Any]:
        return {"raised": self._raised, "lost_updates": self._lost_updates}

    def restore(self, state: dict[str, Any]) -> None:
        self._raised, self._lost_updates = list(state["raised"]), state["lost_updates"]

    def above(self, code: str, step: int, value: float | None, detail: str) -> None:
        """Raises the alarm `code` when `value` is above its threshold; `detail`: what it means and what helps."""
        if value is not None and value > getattr(self._settings, code).threshold:
            self._raise(code, step, value, detail, Alarmed)

    def below(self, code: str, step: int, value: float | None, detail: str) -> None:
        """Raises the alarm `code` when `value` is below its threshold."""
        if value is not None and value < getattr(self._settings, code).threshold:
            self._raise(code, step, value, detail, Alarmed)

    def updated(self, step: int, figures: dict[str, float | None]) -> None:
        """After each update, with what descend() says of it: its `grad_norm` is None where the update was left out."""
        if figures["grad_norm"] is not None:
            return
        self._lost_updates += 1
        if self._lost_updates > self._settings.non_finite.threshold:
            detail = (
                f"the loss {figures['loss']} or its gradient is not a finite number; a lower learning_rate may help"
            )
            self._raise("non_finite", step, self._lost_updates, detail, Unstable)

    def _raise(self, code: str, step: int, value: float, detail: str, failure: type[TrainerFailure]) -> None:
        if code in self._raised:
            return
        self._raised.append(code)
        setting = asdict(getattr(self._settings, code))
        self._reporter.alarm(code, detail, step=step, value=value, **setting)
        if setting["action"] == "stop":
            self.halt = failure(f"{code} at step {step}: {detail}. The checkpoint is kept; a retry goes on from there")
        elif setting["action"] == "pause" and self.halt is None:
            self.halt = Interrupted()


def pause_point(due: bool, keep: Callable[[], None], alarms: Alarms, stop: StopRequest) -> None:
    """After a whole step, in all processes: keeps a checkpoint when it is `due` or the run ends here.

    Raises what an alarm asks for, or Interrupted where anybody has asked the run to stop.
    """
    stopping = agreed(stop)
    if due or stopping or alarms.halt:
        keep()
    if alarms.halt:
        raise alarms.halt
    if stopping:
        raise Interrupted
