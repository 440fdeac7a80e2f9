"""Cells that are called as graphs."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

from mindspore import nn

from mindvit.runtime import ascend


class Compiled(nn.Cell):
    """A cell that is called again and again as a graph, with little delay.

    MindSpore 2.10 tells each cell inside the graph's name before every call, 5 ms for the 850 cells of a small
    XCiT; here once a graph.
    """

    def compile(self, *inputs: Any, **named: Any) -> None:
        """Compile the graph for these inputs, on Ascend at a level that takes it. MindSpore calls this before every
        step, and does nothing where there is one.
        """
        known = len(self.compile_cache)
        ascend.compile_graph(lambda: nn.Cell.compile(self, *inputs, **named))
        if len(self.compile_cache) > known:
            give_back()

    @property
    def compile_phase(self) -> Optional[str]:
        """The name of the graph that was called last."""
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        if value != self._compile_phase:
            nn.Cell.compile_phase.fset(self, value)


def give_back() -> None:
    """Hand freed memory back to the system, where the C library can (glibc): what compiling has used counts in the
    process's peak otherwise, 0.1 GiB of a training step's.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
