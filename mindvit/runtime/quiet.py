"""MindSpore's own log, where it would say a second time what an error says."""

from __future__ import annotations

import contextlib
import logging
from typing import Iterator

LOGGERS = ("MindSpore", "ME.")  # how their names begin: until 2.9, and from then on


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MindSpore's own log lines about an error away: the error says it once, in one line."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith(LOGGERS)]
    before = {name: logging.getLogger(name).disabled for name in names}
    for name in names:
        logging.getLogger(name).disabled = True
    try:
        yield
    finally:
        for name, disabled in before.items():
            logging.getLogger(name).disabled = disabled
