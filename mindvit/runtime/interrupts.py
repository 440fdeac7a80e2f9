"""Ctrl-C, told apart from SIGTERM.

While a graph compiles or runs, MindSpore has a handler of its own for SIGINT, in C++, which sends the process SIGTERM
instead: what asked for the end can't be told any more. So a command blocks SIGINT before it starts any thread (threads
inherit what is blocked), and a thread of ours waits for it.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from typing import Callable, Iterator, Optional

EXIT_CODE = 130  # 128 + SIGINT, as shells count it
GRACE = 3.0  # seconds that Python has to end the command by itself; a graph that is being compiled doesn't let it

_taker: Optional[Callable[[], None]] = None
_listening = _told = False


def listen() -> None:
    """Wait for Ctrl-C in a thread of its own.

    For a command's main thread, before anything is imported that starts threads.
    """
    global _listening
    if _listening or threading.current_thread() is not threading.main_thread():
        return
    _listening = True
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.register_at_fork(after_in_child=_unblock)  # a child has no thread that waits, and some are ended by SIGINT
    threading.Thread(target=_wait, name="interrupts", daemon=True).start()


def listening() -> bool:
    """Whether this process waits for Ctrl-C here."""
    return _listening


@contextlib.contextmanager
def taken_by(taker: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C from here on calls `taker`, in another thread; the second, and any outside, ends the command."""
    global _taker
    _taker = taker
    try:
        yield
    finally:
        _taker = None


def leave() -> None:
    """End the process at once: for `taken_by`, where there is nothing to lose and Python would not be heard, or
    MindSpore would call it an error.
    """
    tell()
    os._exit(EXIT_CODE)


def tell() -> None:
    """Say, once, that Ctrl-C has ended the command."""
    global _told
    if not _told:
        os.write(2, b"interrupted\n")
    _told = True


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _wait() -> None:
    global _taker
    while True:
        signal.sigwait({signal.SIGINT})
        taker, _taker = _taker, None
        if taker is not None:
            taker()
            continue
        _thread.interrupt_main()  # KeyboardInterrupt, as soon as Python is at work again
        signal.sigtimedwait({signal.SIGINT}, GRACE)
        leave()
