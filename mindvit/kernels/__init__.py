"""Our own kernels for CPUs: C++ in csrc/, how it is built (build), and the cells that call it (ops).

See docs/dev/kernels.md. Only `ops` imports MindSpore.
"""
