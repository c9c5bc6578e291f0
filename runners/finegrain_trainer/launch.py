"""Starts the processes of a run that shares its weights among several GPUs of this machine, and ends with them.

What torchrun does, less what a supervised run cannot have: torchrun turns every exit code into 1, and 75 (interrupted,
progress kept) must reach the runner. For several machines, use torchrun.
"""

import os
import signal
import socket
import subprocess
import sys
import time

from .protocol import EXIT_INTERRUPTED

# How long the others may take to say what they know, and to end, when one process has failed.
GRACE_SECONDS = 5.0


def launch(count: int, arguments: list[str]) -> int:
    """Runs `python -m finegrain_trainer` with `arguments` in `count` processes; the exit code of the first to fail.

    The first process has this one's standard input, which may be a life line, and all have its outputs. Where one of
    them was ended by a signal, this one ends by it too, as whoever waits for it draws conclusions from that.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank in range(count):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        own = arguments if rank == 0 else [argument for argument in arguments if argument != "--supervised"]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "finegrain_trainer", *own],
                env=os.environ | variables,
                stdin=None if rank == 0 else subprocess.DEVNULL,
            )
        )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: [process.send_signal(number) for process in processes])
    code = wait(processes)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def wait(processes: list[subprocess.Popen]) -> int:
    """Waits for all of them; where one fails the others are killed, as they would wait for it.

    The first failure's code, or minus its signal.
    """
    failure, deadline = 0, None
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code not in (None, 0, EXIT_INTERRUPTED)]
        if failed and deadline is None:
            failure, deadline = failed[0], time.monotonic() + GRACE_SECONDS
        if None not in codes:
            return failure or max(codes)
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)
