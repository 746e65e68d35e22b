"""The plain torch reference of every op: the specification, one formula after the other.

Everything here materialises the full matrix and is ordinary differentiable torch code, so it can be
read beside the paper it comes from. It does not check its arguments; the ops themselves do. float64
input is computed in float64 and is the ground truth the engines are measured against; float32,
bfloat16 and float16 input is computed in float32.
"""

from .contrastive import InfoNCEAux, info_nce, sigmoid_contrastive
from .rsa import rsa_penalty, rsa_score
from .similarity import pair_similarity, pairwise_similarity, topk_similarity

__all__ = [
    "InfoNCEAux",
    "info_nce",
    "pair_similarity",
    "pairwise_similarity",
    "rsa_penalty",
    "rsa_score",
    "sigmoid_contrastive",
    "topk_similarity",
]
