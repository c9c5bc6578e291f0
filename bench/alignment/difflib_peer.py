"""Python's difflib behind a pipe: one JSON line in, one out, until the input ends.

In: {"original": [word], "edited": [word], "limit_seconds": float}
Out: {"changed": [bool for each word of the original], "milliseconds": float}, or {"changed": null} at the limit.
"""

import json
import signal
import sys
import time
from difflib import SequenceMatcher


class LimitReachedError(Exception):
    pass


def stop(_signal: int, _frame: object) -> None:
    raise LimitReachedError


signal.signal(signal.SIGALRM, stop)
for line in sys.stdin:
    request = json.loads(line)
    try:
        signal.setitimer(signal.ITIMER_REAL, request["limit_seconds"])
        begun = time.perf_counter()
        opcodes = SequenceMatcher(None, request["original"], request["edited"], autojunk=False).get_opcodes()
        milliseconds = (time.perf_counter() - begun) * 1000
        signal.setitimer(signal.ITIMER_REAL, 0)
        changed = [tag != "equal" for tag, start, end, _, _ in opcodes for _ in range(start, end)]
        answer = {"changed": changed, "milliseconds": milliseconds}
    except LimitReachedError:
        answer = {"changed": None}
    print(json.dumps(answer), flush=True)
