"""The kernels of this build, where they run, and how their work is cut to fit."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from b2m_fast import _C

from ..cpu import DTYPES, address
from ..rows import bands, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A submodule that is there in builds with kernels only.
KERNELS = cast("_C._Kernels", getattr(_C, "cuda", None))

#: Bytes a workspace may take, but for a band of the fewest rows (one tile).
WORKSPACE = 2**28

#: Columns a block of gradient weights has at most.
COLUMNS = 2**15


Stream = tuple[int, int]


@contextlib.contextmanager
def running_on(device: torch.device) -> Iterator[Stream]:
    """Make the device current; yields it with its current stream."""
    if device.type != "cuda":
        yield 0, 0
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device)
        yield stream.device_index, stream.cuda_stream


def padded(count: int, step: int) -> int:
    """Round up to a multiple of the step."""
    return -(-count // step) * step


def tiles(count: int) -> int:
    """Return the number of tiles that so many rows take."""
    return -(-count // KERNELS.TILE)


def bands_of_tiles(count: int, bytes_of_row: Callable[[int], int]) -> Iterator[slice]:
    """Yield bands of rows whose workspaces fit; they begin at multiples of a tile."""
    tile = KERNELS.TILE
    return bands(
        count, lambda begin: max(1, WORKSPACE // max(bytes_of_row(begin), 1) // tile) * tile
    )


def ends(rows: slice) -> tuple[int, int]:
    """Return a band as the kernels take it."""
    return rows.start, rows.stop


class Weights:
    """Gradient weights of a band and a block of columns, padded to whole tiles."""

    def __init__(self, rows: slice, columns: slice, like: Tensor) -> None:
        tile = KERNELS.TILE
        shape = (padded(size_of(rows), tile), padded(size_of(columns), tile))
        self.data = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = self.data[: size_of(rows), : size_of(columns)]

    def clear_below_diagonal(self) -> None:
        """Tiles below the diagonal of a band are not written."""
        self.data[:, : len(self.data)] = 0

    def arguments(self) -> _C._Weights:
        """What the kernels take: address, dtype, stride."""
        return address(self.data), DTYPES[self.data.dtype], self.data.stride(0)
