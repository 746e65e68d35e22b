"""The CUDA kernels: workspaces, launches band by band, and the matrix products of gradients.

The kernels (csrc/include/b2m/cuda.h) turn rows into scores and scores into sums or into gradient
weights G. Rows are handled in bands, so that G and every other workspace stay bounded; torch
multiplies G with the rows. Rows are prepared again in each backward pass: a pass over n d values,
against keeping up to 10 bytes a value from one pass to the next. Both passes prepare them by the
same kernel, so that scores round alike.

Nothing here waits for the device or depends on a value, so all of it can be captured in a CUDA
graph. Listed pairs and the choice of the best keys have no kernels: plain torch (`engines.torch`).
"""

import functools

import torch

from b2m_fast import _C

from ..torch import add_cross_products as add_cross_products
from ..torch import pair_list as pair_list
from ..torch import pair_list_backward as pair_list_backward
from ..torch import scalar as scalar
from ..torch import self_scores as self_scores
from ..torch import sum_of_products as sum_of_products
from ..torch import typical_scores as typical_scores
from .comparison import linear_gradient as linear_gradient
from .comparison import mean_squared_difference as mean_squared_difference
from .comparison import pair_moments as pair_moments
from .contrastive import info_nce as info_nce
from .contrastive import info_nce_backward as info_nce_backward
from .contrastive import sigmoid_contrastive as sigmoid_contrastive
from .contrastive import sigmoid_contrastive_backward as sigmoid_contrastive_backward
from .rows import scaled_rows as scaled_rows
from .rows import scaled_rows_backward as scaled_rows_backward
from .scores import pairwise as pairwise
from .scores import pairwise_backward as pairwise_backward
from .scores import topk as topk

# Kernels are compiled for this and later: tensor cores that take bfloat16.
_LEAST_CAPABILITY = (8, 0)


@functools.cache
def missing_on(device: torch.device) -> str | None:
    """Return why a CUDA device has no kernels, or None if it has them."""
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
    """Return whether this build has the kernels as host code, for tests: they take CPU tensors."""
    return _C.build_info()["cuda"] == "emulated"
