"""What a user is told when an input is wrong: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import os
import sys
from typing import Callable, Iterable, NoReturn, Sequence

from mindvit import environment, interrupts

EXIT_BAD_INPUT = 2
EXIT_BROKEN_PIPE = 141  # as shells count SIGPIPE


class UserError(Exception):
    """A mistake in what the user gave: the message says what was given, what is accepted and what to do."""

    exit_code = EXIT_BAD_INPUT


class Stopped(UserError):
    """No mistake: the command was asked to end and did so; the message says what was kept.

    `exit_code` is that of the signal.
    """


def nearest(name: str, accepted: Iterable[str], count: int = 3) -> str:
    """`name`'s closest spellings among `accepted` as a phrase, or an empty string."""
    close = difflib.get_close_matches(name, list(accepted), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Call a command's `main(arguments)` and end the process with its exit code."""
    interrupts.listen()
    try:
        environment.check()
        main(sys.argv[1:])
    except Stopped as stop:
        print(stop, flush=True)
        sys.exit(stop.exit_code)
    except (UserError, environment.EnvironmentMismatch) as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(getattr(error, "exit_code", EXIT_BAD_INPUT))
    except BrokenPipeError:  # whoever read stdout has enough: COMMAND | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or else Python tries to flush it once more at exit
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        interrupts.tell()
        sys.exit(interrupts.EXIT_CODE)
    sys.exit(0)
