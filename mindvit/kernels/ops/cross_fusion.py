"""CrossViT's fusion of a class token with the other branch's patches."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from mindvit.kernels.ops.custom import ProductCell, Shape, Tensors, kernel


class CrossFusion(ProductCell):
    """CrossViT's fusion from end to end, for one branch.

    Its class token is projected to the other branch's width (LayerNorm, GELU, Linear), attends to that branch's
    patches (see ClassQuery; keys and values are never formed), and is projected back.

    own: (B, N, C); other: (B, M, D); drop_path_scale: see Residual. before: norm and product of the first
    projection, (C,), (C,), (D, C), (D,); norm: the attention's, (D,), (D,); products: wq, bq, wk, wv, bv, wo, bo
    of width D; after: norm and product of the second projection, (D,), (D,), (C, D), (C,).

    Outputs: own tokens with the new class token (B, N, C), or that alone (B, 1, C) (class_token_only); own and
    other, for another reader, whose gradients are then added up with these (with_residual), or for none; and ten
    for the gradient.
    """

    def __init__(self, heads: int, scale: float, eps: float, with_residual: bool, class_token_only: bool) -> None:
        super().__init__()
        self.with_residual = with_residual
        self.eps, self.numbers = Tensor([eps], ms.float32), Tensor([scale, heads], ms.float32)

        def forward_shapes(own: Shape, other: Shape, *_: Shape) -> tuple[Shape, ...]:
            batch, tokens, width = other
            result = [own[0], 1, own[2]] if class_token_only else own
            row, seen, rows = [batch, width], [batch, heads, width], [batch * tokens]
            return result, row, row, seen, [batch, heads, tokens], seen, row, row, other, rows, rows

        def backward_shapes(
            own: Shape, other: Shape, drop_path_scale: Shape, eps: Shape, *weights: Shape
        ) -> tuple[Shape, ...]:
            return own, other, *weights[:17], other  # the last one to work with

        self.forward = kernel("CrossFusion", forward_shapes, 11, (heads, class_token_only))
        self.backward = kernel("CrossFusionGrad", backward_shapes, 20, with_residual)

    def construct(
        self,
        own: Tensor,
        other: Tensor,
        drop_path_scale: Tensor,
        before: Tensors,
        norm: Tensors,
        products: Tensors,
        after: Tensors,
    ) -> Tensors:
        norm1, bias1, weight1, product_bias1 = before
        wq, bq, wk, wv, bv, wo, bo = products
        norm2, bias2, weight2, product_bias2 = after
        # fmt: off
        out = self.forward(
            own, other, drop_path_scale, self.eps, norm1, bias1, weight1, product_bias1, norm[0], norm[1],
            wq, bq, wk, wv, bv, wo, bo, norm2, bias2, weight2, product_bias2, self.numbers)
        # fmt: on
        return (out[0], own, other, *out[1:])

    def bprop(
        self,
        own: Tensor,
        other: Tensor,
        drop_path_scale: Tensor,
        before: Tensors,
        norm: Tensors,
        products: Tensors,
        after: Tensors,
        out: Tensors,
        gradients: Tensors,
    ) -> tuple:
        """Gradients of all but drop_path_scale."""
        norm1, bias1, weight1, product_bias1 = before
        wq, bq, wk, wv, bv, wo, bo = products
        norm2, bias2, weight2, product_bias2 = after
        cls, q, queries, weights, seen, values, attended, normed, mean, inverse = out[3:13]
        more_own, more_other = (gradients[1], gradients[2]) if self.with_residual else (self.eps, self.eps)
        # fmt: off
        found = self.backward(
            own, other, drop_path_scale, self.eps, norm1, bias1, weight1, product_bias1, norm[0], norm[1],
            wq, bq, wk, wv, bv, wo, bo, norm2, bias2, weight2, product_bias2, self.numbers,
            cls, q, queries, weights, seen, values, attended, normed, mean, inverse, gradients[0], more_own, more_other)
        # fmt: on
        zeros = ops.zeros_like(drop_path_scale)
        return found[0], found[1], zeros, found[2:6], found[6:8], found[8:15], found[15:19]
