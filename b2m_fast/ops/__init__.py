"""Losses and scores over all pairs of a set of patterns, without the memory of the pairs."""

from . import reference
from .contrastive import InfoNCEAux, info_nce, sigmoid_contrastive
from .pairwise import pair_similarity, pairwise_similarity, topk_similarity
from .rsa import rsa_penalty, rsa_score

__all__ = [
    "InfoNCEAux",
    "info_nce",
    "pair_similarity",
    "pairwise_similarity",
    "reference",
    "rsa_penalty",
    "rsa_score",
    "sigmoid_contrastive",
    "topk_similarity",
]
