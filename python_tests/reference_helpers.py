"""What the tests of the reference share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable


def patterns(seed: int, n: int, d: int, offset: float = 0.3) -> Tensor:
    """Random patterns (n, d), float64, with a mean for centring to remove."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + offset


def close(got: Tensor, expected: Any, tolerance: float = 1e-10) -> None:
    """Assert agreement to a tolerance both relative and absolute."""
    np.testing.assert_allclose(
        got.detach().numpy(), np.asarray(expected), rtol=tolerance, atol=tolerance
    )


def assert_slopes(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Assert that the gradient to every input is that of finite differences."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(function, leaves)
