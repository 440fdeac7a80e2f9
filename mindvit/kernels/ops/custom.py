"""Kernels as operators of MindSpore, and functions that tell the shapes of their outputs."""

from __future__ import annotations

import math
from typing import Any, Callable, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.signature import make_sig, sig_rw

from mindvit.kernels.build import has_bfloat16, library

Shape = Sequence[int]
Tensors = tuple[Tensor, ...]


def kernel(
    name: str,
    shapes: Callable[..., Any],
    outputs: int = 1,
    variant: Any = None,
    bfloat16_shapes: Optional[Callable[..., Any]] = None,
) -> ops.Custom:
    """The kernel of a name as an operator with float32 outputs.

    Args:
        name: the kernel's in csrc/.
        shapes: a function from the inputs' shapes to the outputs'.
        outputs: how many there are.
        variant: what their shapes depend on beside the inputs' shapes. Outside graphs the framework keeps operators by
            name, attributes and shapes.
        bfloat16_shapes: the same as shapes for the kernel's second form (ProductCell), where that keeps less.
    """
    kinds = (ms.float32,) * outputs if outputs > 1 else ms.float32
    operator = ops.Custom(f"{library()}:{name}", out_shape=shapes, out_dtype=kinds, func_type="aot")
    operator.add_prim_attr("variant", str(variant))
    operator.made_of = (name, shapes, outputs, variant, bfloat16_shapes)
    return operator


class ProductCell(nn.Cell):
    """A cell whose kernels can round the operands of products to bfloat16 (PRODUCTS_KERNEL in csrc/)."""

    BFLOAT16 = "BFloat16"  # how the names of such kernels end

    def __init__(self) -> None:
        super().__init__()
        self._made_of: dict[str, tuple[Any, ...]] = {}  # the first forms of the operators

    def use_bfloat16(self, chosen: bool) -> None:
        """Choose the kernels before the cell is compiled. Weights, inputs and outputs are float32 either way.

        Where the processor has no fast products in bfloat16 the first form stays, whatever is chosen.
        """
        chosen = chosen and has_bfloat16()
        for name, operator in list(self._primitives.items()):
            plain, shapes, outputs, variant, other_shapes = self._made_of.setdefault(name, operator.made_of)
            if chosen:
                setattr(self, name, kernel(plain + self.BFLOAT16, other_shapes or shapes, outputs, variant))
            else:
                setattr(self, name, kernel(plain, shapes, outputs, variant, other_shapes))


def changing(operator: ops.Custom, inputs: str) -> ops.Custom:
    """The operator, declared to change some inputs in place: those that are 1 in `inputs`, a digit for each."""
    kinds = {"0": sig_rw.RW_READ, "1": sig_rw.RW_WRITE}
    operator.set_signatures([make_sig(f"input{number}", kinds[kind]) for number, kind in enumerate(inputs)])
    operator.add_prim_attr("side_effect_mem", True)
    return operator


def like_first(first: Shape, *_: Shape) -> Shape:
    """Output: the first input's shape."""
    return first


def like_first_two(first: Shape, second: Shape, *_: Shape) -> tuple[Shape, Shape]:
    """Outputs: the first two inputs' shapes."""
    return first, second


def like_first_and_second_twice(first: Shape, second: Shape, *_: Shape) -> tuple[Shape, Shape, Shape]:
    """Outputs: the first input's shape, and twice the second's."""
    return first, second, second


def first_and_row_statistics(first: Shape, *_: Shape) -> tuple[Shape, Shape, Shape]:
    """Outputs: the first input's shape, and twice a value for each of its rows."""
    rows = [math.prod(first[:-1])]
    return first, rows, rows


def triple_width(x: Shape) -> Shape:
    """(..., C) -> (..., 3C)."""
    return [*x[:-1], 3 * x[-1]]


def halved(x: Shape) -> Shape:
    """(..., C) -> (..., C / 2), rounded up."""
    return [*x[:-1], (x[-1] + 1) // 2]


def branch_end_gradients(
    x: Shape, drop_path_scale: Shape, gamma: Shape, weight: Shape, bias: Shape, eps: Shape, *products: Shape
) -> tuple[Shape, ...]:
    """Outputs: the gradients of what a residual branch begins and ends with, but drop_path_scale and eps
    (csrc/branch.h).
    """
    return x, gamma, weight, bias, *products[:4]
