"""How the trainer talks with whoever started it: JSON lines on stdout, signals, and the life line on stdin.

stdout carries nothing but these lines: library output is sent to stderr. A line is repeated when nothing new was said
for a while, so that silence means a hung process. The run can be killed at any instant (checkpoints are atomic), so a
stop that takes too long ends the process the hard way.
"""

import json
import math
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from .tracking import Tracker

EXIT_DONE, EXIT_FAILED, EXIT_BAD_SPEC, EXIT_INTERRUPTED = 0, 1, 2, 75

HEARTBEAT_SECONDS = 1.5
LIFE_LINE_SECONDS = 60.0
STOP_GRACE_SECONDS = 20.0


class Reporter:
    """Writes protocol lines; safe from several threads; survives a reader that has gone away."""

    def __init__(self, file_descriptor: int, quiet: bool = False):
        """`quiet`: nothing but a failure is said, as another process tells the rest."""
        self._quiet = quiet
        self._fd = file_descriptor
        self._lock = threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._spoke_at = time.monotonic()
        self._closed = False
        self.trackers: list[Tracker] = []

    def progress(self, step: int, total_steps: int, stage: str) -> None:
        self._progress = {"type": "progress", "step": step, "total_steps": total_steps, "stage": stage}
        self._write(self._progress)

    def metrics(self, step: int, values: dict[str, float | None]) -> None:
        self._write({"type": "metrics", "step": step, "values": values})
        for tracker in self.trackers:
            tracker.metrics(step, values)

    def log(self, message: str, level: str = "info") -> None:
        self._write({"type": "log", "level": level, "message": message})

    def resumed(self, step: int) -> None:
        self.log(f"resuming after step {step}")
        for tracker in self.trackers:
            tracker.resumed(step)

    def checkpoint(self, step: int, path: str, digest: str) -> None:
        self._write({"type": "checkpoint", "step": step, "path": path, "digest": digest})
        for tracker in self.trackers:
            tracker.checkpoint(step)

    def rollouts(self, step: int, path: str, count: int) -> None:
        self._write({"type": "rollouts", "step": step, "path": path, "count": count})

    def alarm(self, code: str, detail: str, *, step: int, value: float, threshold: float, action: str) -> None:
        numbers = {"step": step, "value": value, "threshold": threshold}
        self._write({"type": "alarm", "code": code, "detail": detail, **numbers, "action": action})

    def artifact(self, name: str, path: str, media_type: str) -> None:
        self._write({"type": "artifact", "name": name, "path": path, "media_type": media_type})

    def model(self, role: str, path: str, metrics: dict[str, float | None]) -> None:
        self._write({"type": "model", "role": role, "path": path, "metrics": metrics})

    def result(self, result: dict[str, Any]) -> None:
        self._write({"type": "result", "result": result}, last=True)

    def failure(self, reason: str, detail: str) -> None:
        self._write({"type": "failure", "reason": reason, "detail": detail}, last=True)

    def start_heartbeat(self) -> None:
        """Repeats the last progress line when nothing was written for HEARTBEAT_SECONDS."""

        def beat() -> None:
            while True:
                time.sleep(HEARTBEAT_SECONDS / 6)
                if self._progress and time.monotonic() - self._spoke_at > HEARTBEAT_SECONDS:
                    self._write(self._progress)

        threading.Thread(target=beat, daemon=True, name="heartbeat").start()

    def _write(self, line: dict[str, Any], last: bool = False) -> None:
        if self._quiet and line["type"] != "failure":
            return
        data = (json.dumps(_finite(line), ensure_ascii=False, allow_nan=False) + "\n").encode()
        with self._lock:
            if self._closed:
                return
            self._spoke_at, self._closed = time.monotonic(), last
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                pass  # nobody reads any more; the life line ends the run, after its checkpoint


class StopRequest:
    """Set by SIGTERM, Ctrl-C or the loss of the parent; training loops look at it between steps."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, why: str) -> None:
        if self.requested:
            return
        self.requested = True
        os.write(2, f"stopping: {why}\n".encode())  # not print: this may run inside a signal handler
        timer = threading.Timer(STOP_GRACE_SECONDS, os._exit, args=(EXIT_INTERRUPTED,))
        timer.daemon = True
        timer.start()

    def on_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self.request(signal.Signals(number).name))

    def watch_life_line(self, file_descriptor: int, patience_seconds: float = LIFE_LINE_SECONDS) -> None:
        """Requests the stop when the descriptor closes or stays silent for `patience_seconds`."""

        def watch() -> None:
            while True:
                ready, _, _ = select.select([file_descriptor], [], [], patience_seconds)
                if not ready:
                    return self.request(f"no life sign for {patience_seconds:g} s")
                if not os.read(file_descriptor, 65536):
                    return self.request("the life line closed")

        threading.Thread(target=watch, daemon=True, name="life-line").start()


def claim_stdout(quiet: bool = False) -> Reporter:
    """Takes file descriptor 1 for the protocol; whatever else prints to stdout goes to stderr from here on."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return Reporter(descriptor, quiet)


def _finite(value: Any) -> Any:
    """`value` with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
