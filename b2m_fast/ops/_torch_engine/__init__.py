"""The engine in plain torch, on any device: scores in blocks of bounded size.

For devices without kernels of their own, and for the operations that have none. Nothing waits for
the device, so all of it can be captured in a CUDA graph; every sum has a fixed order, but for what
torch's matrix products do. float32 products are as exact as
`torch.get_float32_matmul_precision()` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .comparison import (
    linear_gradient,
    mean_squared_difference,
    pair_moments,
    typical_scores,
)
from .contrastive import (
    info_nce,
    info_nce_backward,
    sigmoid_contrastive,
    sigmoid_contrastive_backward,
)
from .rows import add_cross_products, scaled_rows, scaled_rows_backward, sum_of_products
from .scores import (
    pair_list,
    pair_list_backward,
    pairwise,
    pairwise_backward,
    self_scores,
    topk,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "add_cross_products",
    "info_nce",
    "info_nce_backward",
    "linear_gradient",
    "mean_squared_difference",
    "pair_list",
    "pair_list_backward",
    "pair_moments",
    "pairwise",
    "pairwise_backward",
    "scalar",
    "scaled_rows",
    "scaled_rows_backward",
    "self_scores",
    "sigmoid_contrastive",
    "sigmoid_contrastive_backward",
    "sum_of_products",
    "topk",
    "typical_scores",
]


def scalar(x: Tensor) -> Tensor:
    """Return a number as formulas over results take it."""
    return x
