"""Linear, LayerNorm, GELU, MLP, dropout and stochastic depth, with PyTorch's parameter names, layouts and constants.

Shapes: B batch, N tokens, C channels. Tokens travel as rows (B*N, C): a product of two matrices is the fast one on
every device. Products run in `compute_type`; norms, softmax and losses always in float32.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, Zero, initializer

from mindvit import device, kernels

# timm's trunc_normal_ cuts at +-2, a hundred standard deviations away: a normal distribution.
INIT_STD = 0.02


def weight_of(shape: tuple[int, ...], init: object = None) -> Parameter:
    """A float32 parameter, normal with the papers' standard deviation unless another initialiser is given."""
    return Parameter(initializer(init or Normal(INIT_STD), shape, ms.float32))


class Compiled(nn.Cell):
    """A cell that is called again and again as a graph, with little delay.

    MindSpore 2.10 tells each cell inside the graph's name before every call, 5 ms for the 850 cells of a small XCiT; here once a graph.
    """

    @property
    def compile_phase(self) -> Optional[str]:
        """The name of the graph that was called last."""
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        if value != self._compile_phase:
            nn.Cell.compile_phase.fset(self, value)


class AddRow(nn.Cell):
    """x + row, for CPUs: there a broadcast sum keeps four times its output in memory as long as the graph lives, and its gradient is a slow sum.

    x: (M, C); row: (C,). BiasAdd keeps nothing; the gradient of the row is a product with a row of ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.add = ops.BiasAdd()

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        return self.add(x, row)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and row."""
        ones = ops.ones((1, x.shape[0]), gradient.dtype)
        return gradient, ops.matmul(ones, gradient).reshape(row.shape)


class Product(nn.Cell):
    """x W^T + bias with what is fastest, for cells that have the weights. x: (..., I); weight: (outputs, I); bias: (outputs,) or None; of one type."""

    def __init__(self, outputs: int):
        super().__init__()
        self.fused: Any = kernels.Linear() if device.has_product_kernels() else None
        self.no_bias = Tensor(np.zeros(outputs), ms.float32)
        self.dense = ops.Dense()
        self.rows = ops.MatMul(transpose_b=True)  # on a CPU the gradient of Dense transposes its operands first
        self.add_row = AddRow() if device.broadcasting_is_slow() else None

    def construct(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        if self.fused is not None and x.dtype == ms.float32:
            return self.fused(x, weight, self.no_bias if bias is None else bias)
        if self.add_row is None:
            return self.dense(x, weight, bias)
        y = self.rows(x.reshape(-1, x.shape[-1]), weight)
        return (y if bias is None else self.add_row(y, bias)).reshape(*x.shape[:-1], -1)


class Linear(nn.Cell):
    """y = x W^T + b. x: (..., inputs); W: (outputs, inputs); y: (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = weight_of((outputs, inputs))
        self.bias: Any = weight_of((outputs,), Zero()) if bias else None
        self.compute_type = ms.float32
        self.product = Product(outputs)

    def construct(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.astype(self.compute_type)
        return self.product(x.astype(self.compute_type), self.weight.astype(self.compute_type), bias)


class LayerNorm(nn.Cell):
    """Normalises the channels, the last axis, in float32. x: (..., C). `eps` has no default: the papers' differ."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = weight_of((channels,), "ones")
        self.bias = weight_of((channels,), Zero())
        self.eps = eps
        self.fused: Any = kernels.LayerNorm(eps) if device.has_kernels() else None
        self.mean_by_product = device.broadcasting_is_slow()
        self.average = Tensor(np.full((channels, 1), 1 / channels), ms.float32)
        self.normalise = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)
        self.add_row = AddRow()

    def numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a kernel that normalises needs, where there are kernels: weight and bias (C,), eps (1,)."""
        return self.weight.value(), self.bias.value(), self.fused.eps

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x, to be added to a residual branch, and the normalised x, where that begins: our kernel adds their gradients up on the way."""
        if self.fused is not None and x.dtype == ms.float32:
            both = self.fused(x, self.weight.value(), self.bias)
            return both[0], both[1]
        return x, self.construct(x)

    def construct(self, x: Tensor) -> Tensor:
        x = x.astype(ms.float32)
        if self.fused is not None:
            return self.fused(x, self.weight.value(), self.bias)[1]
        if not (self.mean_by_product and self.training):  # it is the kernel's gradient that is slow
            return self.normalise(x, self.weight, self.bias)[0]
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        centred = x - ops.matmul(x, self.average)
        variance = ops.matmul(centred * centred, self.average)
        return self.add_row(centred * ops.rsqrt(variance + self.eps) * self.weight, self.bias).reshape(shape)


class GELU(nn.Cell):
    """x * Phi(x), the exact form (nn.GELU() is the tanh approximation; ops.gelu divides where this multiplies, which is slow on a CPU)."""

    NAME = "Gelu"  # the kernels' for it

    def __init__(self) -> None:
        super().__init__()
        self.fused: Any = kernels.Gelu() if device.has_kernels() else None

    def construct(self, x: Tensor) -> Tensor:
        if self.fused is not None and x.dtype == ms.float32:
            return self.fused(x)
        return x * (ops.erf(x * 0.5 ** 0.5) * 0.5 + 0.5)


class Dropout(nn.Cell):
    """Zeroes elements with probability `rate` while training; nothing in the graph at rate 0."""

    def __init__(self, rate: float):
        super().__init__()
        self.active = rate > 0
        self.drop = nn.Dropout(p=rate)

    def construct(self, x: Tensor) -> Tensor:
        return self.drop(x) if self.active else x


class Residual(nn.Cell):
    """x + gamma * branch, with stochastic depth (Huang et al. 2016): while training, a sample's branch is dropped with probability `rate`.

    x, branch: (..., C), each sample's rows beside each other, kept or dropped together and scaled by 1 / (1 - rate); `batch`: the number
    of samples B; gamma: (C,) or None. kept: (cells, B) float32, samples' factors, 0 or 1 / (1 - rate), a row for each of the network's cells that drop
    (see number_drop_paths): what a training step passes down so that a run can be repeated, which the CPU kernel of nn.Dropout can't
    promise. Without them that is used.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.row = 0
        self.drop = nn.Dropout(p=rate)
        self.fused: Any = kernels.Residual() if device.has_kernels() else None
        self.sum: Any = kernels.Sum() if device.has_kernels() else None
        self.one = Tensor([1.0], ms.float32)

    def factors(self, batch: int, kept: Optional[Tensor]) -> Tensor:
        """Each sample's factor, (B,), or the one for all, (1,)."""
        if not (self.rate > 0 and self.training):
            return self.one
        if kept is None:
            return self.drop(ops.ones((batch,), ms.float32))
        return kept[self.row]

    def construct(self, x: Tensor, branch: Tensor, batch: int, kept: Optional[Tensor] = None, gamma: Optional[Tensor] = None) -> Tensor:
        dropping = self.rate > 0 and self.training
        own = self.fused is not None and x.dtype == ms.float32 and branch.dtype == ms.float32
        if gamma is None and not dropping:
            return self.sum(x, branch) if own else x + branch
        keep = self.factors(batch, kept)
        if own:
            return self.fused(x, branch, self.one if gamma is None else gamma.value(), keep)
        if gamma is not None:
            branch = gamma * branch
        if dropping:
            branch = (branch.reshape(batch, -1) * keep.astype(branch.dtype).expand_dims(1)).reshape(branch.shape)
        return x + branch


def number_drop_paths(net: nn.Cell) -> list[float]:
    """Give each cell that drops anything its row of what is kept; the rows' rates."""
    cells = [cell for _, cell in net.cells_and_names() if isinstance(cell, Residual) and cell.rate > 0]
    for row, cell in enumerate(cells):
        cell.row = row
    return [cell.rate for cell in cells]


class Kept(nn.Cell):
    """Chances, uniform in 0..1, (cells, B) -> the factors that Residual asks for. rates: the rows' (number_drop_paths)."""

    def __init__(self, rates: Sequence[float]):
        super().__init__()
        self.some = bool(rates)
        self.rates = Tensor(np.reshape(rates or [0.0], (-1, 1)), ms.float32)

    def construct(self, chances: Tensor) -> Tensor:
        return (chances >= self.rates).astype(ms.float32) / (1 - self.rates) if self.some else chances


class Softmax(nn.Cell):
    """Attention weights from float32 scores (..., keys). A cell of its own, so that a forward hook sees the weights of any attention (attention_maps)."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: Any = kernels.Softmax() if device.has_kernels() else None

    def construct(self, scores: Tensor) -> Tensor:
        if self.fused is not None:
            return self.fused(scores)
        return ops.softmax(scores, -1)


class Mlp(nn.Cell):
    """Linear, activation, Linear on rows (rows, C)."""

    def __init__(self, channels: int, hidden: int, drop_rate: float, activation: Optional[nn.Cell] = None):
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.act: Any = activation or GELU()
        self.fc2 = Linear(hidden, channels)
        self.drop = Dropout(drop_rate)
        self.whole: Any = kernels.MlpBranch(self.act.NAME) if device.has_product_kernels() and drop_rate == 0 else None

    def branch(self, x: Tensor, keep: Tensor, gamma: Tensor, norm: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x + keep gamma mlp(norm(x)) in one kernel, where `whole` is there and all is float32; keep and gamma: see kernels.Residual."""
        weight, bias, eps = norm
        return self.whole(x, keep, gamma, weight, bias, eps, self.fc1.weight.value(), self.fc1.bias.value(), self.fc2.weight.value(), self.fc2.bias.value())[0]

    def construct(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def set_precision(net: nn.Cell, level: str, half: Optional[ms.dtype.Type]) -> None:
    """Choose the number types of a network before it is compiled.

    O0: float32. O1: products in `half`, the residual stream in float32 (as PyTorch's autocast). O2, O3: the stream in
    `half` too. Norms, softmax, resizing and the master weights stay float32 at every level.
    """
    compute = ms.float32 if level == "O0" or half is None else half
    for _, cell in net.cells_and_names():
        if hasattr(cell, "compute_type"):
            cell.compute_type = compute
        if hasattr(cell, "stream_type"):
            cell.stream_type = compute if level in ("O2", "O3") else ms.float32
