"""stdout, signals and the life line, as a runner sees them."""

import contextlib
import json
import math
import os
import time

import pytest

from finegrain_trainer import protocol
from finegrain_trainer.protocol import Reporter, StopRequest


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):  # a test may have closed it
            os.close(descriptor)


def said(reading: int) -> list[dict]:
    return [json.loads(line) for line in os.read(reading, 1 << 20).decode().splitlines()]


def wait_for(condition, seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def no_hard_exit(monkeypatch):
    monkeypatch.setattr(protocol, "STOP_GRACE_SECONDS", 3600.0)


def test_numbers_that_json_does_not_have_become_null(pipe):
    Reporter(pipe[1]).metrics(1, {"a": math.nan, "b": math.inf, "c": 1.5})
    assert said(pipe[0]) == [{"type": "metrics", "step": 1, "values": {"a": None, "b": None, "c": 1.5}}]


def test_progress_is_repeated_in_silence_and_never_after_the_last_line(pipe, monkeypatch):
    monkeypatch.setattr(protocol, "HEARTBEAT_SECONDS", 0.06)
    reporter = Reporter(pipe[1])
    reporter.start_heartbeat()
    reporter.progress(3, 9, "train")
    time.sleep(0.4)
    reporter.result({"steps": 9})
    time.sleep(0.2)
    lines = said(pipe[0])
    assert lines[-1] == {"type": "result", "result": {"steps": 9}}
    assert len(lines) >= 4
    assert lines[0] == lines[-2] == {"type": "progress", "step": 3, "total_steps": 9, "stage": "train"}


def test_a_reader_that_has_gone_does_not_end_the_run(pipe):
    reporter = Reporter(pipe[1])
    os.close(pipe[0])
    reporter.progress(1, 2, "train")


def test_the_life_line_holds_as_long_as_something_comes(pipe):
    stop = StopRequest()
    stop.watch_life_line(pipe[0], patience_seconds=0.3)
    for _ in range(5):
        os.write(pipe[1], b"ping\n")
        time.sleep(0.1)
    assert not stop.requested
    assert wait_for(lambda: stop.requested), "silence must stop the run"


def test_a_closed_life_line_stops_the_run_at_once(pipe):
    stop = StopRequest()
    stop.watch_life_line(pipe[0], patience_seconds=60)
    os.close(pipe[1])
    assert wait_for(lambda: stop.requested)


def test_a_stop_that_takes_too_long_ends_the_process(monkeypatch):
    monkeypatch.setattr(protocol, "STOP_GRACE_SECONDS", 0.1)
    pid = os.fork()
    if pid == 0:
        StopRequest().request("test")
        time.sleep(30)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
