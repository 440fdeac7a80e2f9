"""Cells that call the kernels of csrc/. Each gives what the operators that it stands for give, within rounding."""
