"""The engine in plain torch, on any device: scores in blocks of bounded size.

For devices without kernels of their own, and for the operations that have none. Nothing waits for
the device, so all of it can be captured in a CUDA graph; every sum has a fixed order, but for what
torch's matrix products do. float32 products are as exact as
`torch.get_float32_matmul_precision()` says.
"""

from torch import Tensor

from .comparison import linear_gradient as linear_gradient
from .comparison import mean_squared_difference as mean_squared_difference
from .comparison import pair_moments as pair_moments
from .comparison import typical_scores as typical_scores
from .contrastive import info_nce as info_nce
from .contrastive import info_nce_backward as info_nce_backward
from .contrastive import sigmoid_contrastive as sigmoid_contrastive
from .contrastive import sigmoid_contrastive_backward as sigmoid_contrastive_backward
from .scores import add_cross_products as add_cross_products
from .scores import pair_list as pair_list
from .scores import pair_list_backward as pair_list_backward
from .scores import pairwise as pairwise
from .scores import pairwise_backward as pairwise_backward
from .scores import scaled_rows as scaled_rows
from .scores import scaled_rows_backward as scaled_rows_backward
from .scores import self_scores as self_scores
from .scores import sum_of_products as sum_of_products
from .scores import topk as topk


def scalar(x: Tensor) -> Tensor:
    """Return a number as formulas over results take it."""
    return x
