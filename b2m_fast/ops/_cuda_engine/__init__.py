"""The CUDA kernels: workspaces, launches band by band, and the matrix products of gradients.

The kernels (csrc/include/b2m/cuda.h) turn rows into scores and scores into sums or into gradient
weights G. Rows are handled in bands, so that G and every other workspace stay bounded; torch
multiplies G with the rows. Rows are prepared again in each backward pass: a pass over n d values,
against keeping up to 10 bytes a value from one pass to the next. Both passes prepare them by the
same kernel, so that scores round alike.

Nothing here waits for the device or depends on a value, so all of it can be captured in a CUDA
graph. Listed pairs and the choice of the best keys have no kernels: plain torch (`_torch_engine`).
"""

from __future__ import annotations

import functools

import torch

from b2m_fast import _C

from .._torch_engine import (
    add_cross_products,
    pair_list,
    pair_list_backward,
    scalar,
    self_scores,
    sum_of_products,
    typical_scores,
)
from .comparison import linear_gradient, mean_squared_difference, pair_moments
from .contrastive import (
    info_nce,
    info_nce_backward,
    sigmoid_contrastive,
    sigmoid_contrastive_backward,
)
from .rows import scaled_rows, scaled_rows_backward
from .scores import pairwise, pairwise_backward, topk

__all__ = [
    "add_cross_products",
    "emulated",
    "info_nce",
    "info_nce_backward",
    "linear_gradient",
    "mean_squared_difference",
    "missing_on",
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


# Kernels are compiled for this and later: tensor cores that take bfloat16.
_LEAST_CAPABILITY = (8, 0)


@functools.cache
def missing_on(device: torch.device) -> str | None:
    """Why a CUDA device has no kernels, if it has none."""
    if _C.build_info()["cuda"] in {"no", "emulated"}:
        return (
            "this build of b2m_fast has no CUDA kernels; installing where nvcc (12.4 or later) is "
            "found builds them"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        has, needs = (".".join(map(str, x)) for x in (capability, _LEAST_CAPABILITY))
        name = torch.cuda.get_device_name(device)
        return f"{name} has compute capability {has}, and the CUDA kernels of b2m_fast need {needs}"
    return None


def emulated() -> bool:
    """Whether this build has the kernels as host code, for tests: they take CPU tensors."""
    return _C.build_info()["cuda"] == "emulated"
