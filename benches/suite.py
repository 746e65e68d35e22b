"""Everything that `make bench` times in turns."""

from __future__ import annotations

from cases import FEW, FORWARD, Group, Op
from timed_levels import every_level
from timed_losses import every_loss
from timed_similarities import every_similarity
from timed_sizes import every_size


def all_ops() -> list[Op]:
    ops = [*every_loss(), *every_similarity(), *every_level(), *every_size()]
    return sorted(ops, key=lambda op: op.share, reverse=True)  # what has to be good comes first


def groups(form: str) -> list[Group]:
    """Everything that is timed in one run; form is "short" or "full"."""
    if form not in {"short", "full"}:
        raise ValueError(f"B2M_BENCH is {form!r}; expected 'short' or 'full'")
    return [
        Group(op, mode, n, d)
        for op in all_ops()
        if form == "full" or op.short
        for n, d in (op.sizes if form == "full" else FEW)
        for mode in op.modes
        # Of ops with a gradient the forward pass alone only at the sizes that tell most.
        if mode != FORWARD or not op.has_gradient or (n, d) in FEW
    ]
