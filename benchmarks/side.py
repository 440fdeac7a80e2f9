"""What every side of a comparison does, whatever its framework: obey lines of JSON, and answer with seconds. Python's
own library only.

A side is a process that builds its network once and then runs steps when asked: {"mode": "train", "steps": 8} ->
{"seconds": [...], "peak": GiB of memory that the process had at most}; the first request for a mode compiles, and
{"mode": ..., "steps": 0} answers {"compile": seconds}. compare.py stops it (SIGSTOP) while the others have their turn.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any, Callable, TextIO

Step = Callable[[], Any]


def seconds_of(step: Step, count: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of `count` calls, after one that isn't counted: it warms the caches that the others have used
    meanwhile.
    """
    found = []
    for _ in range(count + 1):
        start = clock()
        step()
        found.append(clock() - start)
    return found[1:]


def answers_only() -> TextIO:
    """Standard output for answers; whatever else is printed from now on goes to standard error. To be called first."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(answers: TextIO, about: dict[str, Any], make: Callable[[str], Step]) -> None:
    """Answer requests on standard input until it ends. `make(mode)` builds a step that ends when its result is there;
    `about` is told first.
    """
    print(json.dumps(about), file=answers, flush=True)
    steps: dict[str, Step] = {}
    for line in sys.stdin:
        request = json.loads(line)
        mode, answer = request["mode"], dict[str, Any]()
        if mode not in steps:
            start = time.perf_counter()
            steps[mode] = make(mode)
            steps[mode]()
            answer["compile"] = time.perf_counter() - start
        if request["steps"]:
            answer["seconds"] = seconds_of(steps[mode], request["steps"])
            answer["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), file=answers, flush=True)
