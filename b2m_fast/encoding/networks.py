"""Choice of a network and its layers, as settings: this module loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

EFFICIENTNET = "efficientnet-lite0"
LIBRARIES = ("torchvision", "timm")


def check_network(name: str) -> None:
    """Raise ValueError unless `load_network` knows the name; whether a library has the model is not looked at."""
    source, _, model = name.partition(":")
    if name != EFFICIENTNET and (source not in LIBRARIES or not model):
        kinds = ", ".join([EFFICIENTNET, *(f"{library}:<model>" for library in LIBRARIES)])
        raise ValueError(f"unknown network {name!r}; there are {kinds}")


@dataclass(frozen=True)
class NetworkFeatures:
    """Layers of a trained network as image features.

    The defaults were chosen on V4 session 210325, from blocks 3 to 15 at 112, 160 and 224 pixels, by
    cross-validation; no other session took part in it.

    Attributes
    ----------
    network : str
        As `b2m_fast.encoding.load_network` knows it.
    taps : tuple of str
        Names of modules.
    size : int, optional
        Pixels of the images' sides; None: as they are.
    grid : int, optional
        Maps are averaged down to at most grid x grid places.
    """

    network: str = EFFICIENTNET
    taps: tuple[str, ...] = ("_blocks.5", "_blocks.10", "_blocks.12")
    size: int | None = 160
    grid: int | None = 7

    def __call__(
        self, images: NDArray[np.uint8], device: str | torch.device | None = None
    ) -> list[NDArray[np.float32]]:
        """Return the features of images, (n, H, W, 1 or 3), as (n, p) for each tap, computed on a device.

        Raises
        ------
        ImportError
            If the network's packages are missing.
        ValueError
            If the network or a tap is unknown.
        """
        from b2m_fast.encoding.features import load_network, tap  # noqa: PLC0415

        network, prepare = load_network(self.network, size=self.size)
        found = tap(network, self.taps, images, prepare=prepare, grid=self.grid, device=device)
        return [found[name] for name in self.taps]
