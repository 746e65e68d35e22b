"""Exact losses over all pairs of a set of patterns, and ways of teaching a network from a brain."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import nn, ops
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
    "ops",
    "pair_similarity",
    "pairwise_similarity",
    "rsa_penalty",
    "rsa_score",
    "sigmoid_contrastive",
    "topk_similarity",
]

if not TYPE_CHECKING:  # a type checker is to see the names above and no others

    def __getattr__(name: str) -> Any:
        """Load torch and the ops when one of them is first used, not with the package."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in {"nn", "ops"}:
            return importlib.import_module(f"{__name__}.{name}")
        globals()[name] = getattr(importlib.import_module(f"{__name__}.ops"), name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted(__all__)
