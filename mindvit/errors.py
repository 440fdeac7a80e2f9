"""What a user is told when an input is wrong: one line, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator, NoReturn, Optional, Sequence

from mindvit import environment
from mindvit.runtime import interrupts
from mindvit.runtime.files import spell_out

EXIT_BAD_INPUT = 2
EXIT_BROKEN_PIPE = 141  # as shells count SIGPIPE


@dataclass(frozen=True)
class Hint:
    """What helps: said in a command that has the option `option` ("" for what no command has), and said to a program
    that calls the library.
    """

    option: str
    command: str
    library: str


class UserError(Exception):
    """A mistake in what the user gave: the message says what was given, what is accepted and what to do.

    hints: what helps, one way or another. Of them the message shows those that can be followed: in a command (see
    `hints_for`) those whose option it has, elsewhere what a program would write.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, hints: Sequence[Hint] = ()):
        super().__init__(message)
        self.hints = tuple(hints)
        self.options: Optional[frozenset[str]] = None  # of the command that shows the message; None: no command

    def __str__(self) -> str:
        options = self.options
        shown = [
            hint.library if options is None else hint.command
            for hint in self.hints
            if options is None or hint.option in options
        ]
        return super().__str__() + (f": {'; '.join(dict.fromkeys(shown))}" if shown else "")


@contextlib.contextmanager
def hints_for(options: Iterable[str]) -> Iterator[None]:
    """Errors that come out of the block hint at these options, a command's, and at nothing else."""
    try:
        yield
    except UserError as error:
        error.options = frozenset(options)
        raise


class Stopped(UserError):
    """No mistake: the command was asked to end and did so; the message says what was kept.

    `exit_code` is that of the signal.
    """


def nearest(name: str, accepted: Iterable[str], count: int = 3) -> str:
    """`name`'s closest spellings among `accepted` as a phrase, or an empty string."""
    close = difflib.get_close_matches(name, list(accepted), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def run(main: Callable[[Sequence[str]], None], checked: bool = True) -> NoReturn:
    """Call a command's `main(arguments)` and end the process with its exit code.

    checked: refuse wrong versions of Python and libraries first (False: `main` does so where it needs them).
    """
    spell_out(sys.stdout, sys.stderr)
    interrupts.listen()
    try:
        if checked:
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
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or else Python tries to flush it once more at exit
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        interrupts.tell()
        sys.exit(interrupts.EXIT_CODE)
    sys.exit(0)
