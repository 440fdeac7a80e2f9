"""Images from uint8, normalized, mixed and resized."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import Shape, Tensors, kernel


class Pixels(nn.Cell):
    """x factor + offset, channels before height and width.

    x: uint8 (B, H, W, C), factor and offset: (C,) -> float32 (B, C, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Pixels", channels_first)

    def construct(self, x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
        return self.forward(x, factor, offset)


class MixedPixels(nn.Cell):
    """As Pixels, then erased and mixed.

    noise: (H, W, C); boxes: (B, 4) int32; own_pixel: (H, W, 1), the share of an image's own pixels where it is
    mixed with the one as far from the batch's end as it is from the start (see data.mixing).
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("MixedPixels", channels_first)

    def construct(
        self, x: Tensor, factor: Tensor, offset: Tensor, noise: Tensor, boxes: Tensor, own_pixel: Tensor
    ) -> Tensor:
        return self.forward(x, factor, offset, noise, boxes, own_pixel)


class Resize(nn.Cell):
    """R x K^T for each image and channel.

    x: (B, C, H, W); rows R: (H', H) and columns K: (W', W), of few values that are not zero, which get no gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Resize", lambda x, rows, columns: [*x[:2], rows[0], columns[0]])

    def construct(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return self.forward(x, rows, columns)

    def bprop(self, x: Tensor, rows: Tensor, columns: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradient of x; with plain operators: training needs no gradient of images."""
        dx = ops.matmul(ops.matmul(rows.transpose(1, 0), gradient), columns)
        return dx, ops.zeros_like(rows), ops.zeros_like(columns)


class ResizeMaps(nn.Cell):
    """R x K^T for each channel of maps.

    x: (B, H, W, C); rows R: (H', H) and columns K: (W', W), of few values that are not zero, and both transposed; they
    get no gradients. -> (B, H', W', C).
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("ResizeMaps", lambda x, rows, columns, *_: [x[0], rows[0], columns[0], x[3]])

    def construct(self, x: Tensor, rows: Tensor, columns: Tensor, rows_t: Tensor, columns_t: Tensor) -> Tensor:
        return self.forward(x, rows, columns, rows_t, columns_t)

    def bprop(
        self,
        x: Tensor,
        rows: Tensor,
        columns: Tensor,
        rows_t: Tensor,
        columns_t: Tensor,
        out: Tensor,
        gradient: Tensor,
    ) -> Tensors:
        """Gradient of x."""
        dx = self.forward(gradient, rows_t, columns_t, rows, columns)
        none = ops.zeros_like(rows), ops.zeros_like(columns), ops.zeros_like(rows_t), ops.zeros_like(columns_t)
        return (dx, *none)


def channels_first(x: Shape, *_: Shape) -> Shape:
    """(B, H, W, C) -> (B, C, H, W)."""
    return [x[0], x[3], *x[1:3]]
