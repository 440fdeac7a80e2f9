"""Runs that are asked to end: signals, and what they leave."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import Any, Iterator

from mindvit.errors import Stopped, UserError
from mindvit.runtime import interrupts

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", 0: "another rank"}


class TrainingFailed(UserError):
    """The run can't continue: the loss is not finite any more, or the ranks disagree."""

    exit_code = 1


class Interrupted(Stopped):
    """The run was asked to end, by the signal `number` (0: on another rank), and `path` holds where it is, as `moment`
    says.
    """

    def __init__(self, number: int, moment: str, path: Path, resume: str):
        command = "the same command" + (f" with --resume {path}" if resume != "auto" else "")
        super().__init__(f"stopped by {NAMES[number]} {moment}; saved in {path}: {command} resumes")
        self.exit_code = 128 + (number or signal.SIGTERM)  # as shells count it


class StopSignal:
    """Which signal has asked the run to end after the step that is running; false while none has."""

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return self.number > 0

    def ask(self, number: int) -> None:
        """What a signal does."""
        self.number = number

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask the first time, and do what they did before from then on."""
        if threading.current_thread() is not threading.main_thread():  # Python lets only that one handle signals
            yield
            return
        # SIGINT: in a command, a thread waits for it; in somebody else's program Python's own handler stands beside
        # MindSpore's
        numbers = (signal.SIGTERM,) if interrupts.listening() else (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def once(number: int, _: Any) -> None:
            signal.signal(number, before[signal.Signals(number)])
            self.ask(number)

        for number in before:
            signal.signal(number, once)
        try:
            with interrupts.taken_by(lambda: self.ask(signal.SIGINT)):
                yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)
