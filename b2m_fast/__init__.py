"""Exact losses over all pairs of a set of patterns, and ways of teaching a network from a brain."""

from . import nn
from .ops import (
    InfoNCEAux,
    info_nce,
    pair_similarity,
    pairwise_similarity,
    rsa_penalty,
    rsa_score,
    sigmoid_contrastive,
    topk_similarity,
)

__version__ = "0.1.0"

__all__ = [
    "InfoNCEAux",
    "__version__",
    "info_nce",
    "nn",
    "pair_similarity",
    "pairwise_similarity",
    "rsa_penalty",
    "rsa_score",
    "sigmoid_contrastive",
    "topk_similarity",
]
