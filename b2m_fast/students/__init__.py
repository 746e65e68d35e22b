"""Networks that learn; each is registered in the file that defines it.

A student is a class, or a function that returns a network. What it is made with it takes by name; a student without one of these
arguments is made without it. Options stand behind a *: ``--set student_options.NAME=VALUE``.

    kind of student   made with                                 `ImageStudent`, `TrialStudent`, `FrameStudent`: what it can do
      "images"        classes, channels, size                   images (n, channels, size, size) in [0, 1] -> logits (n, classes)
      "trials"        channels, classes, units, step_ms         inputs (steps, trials, channels) -> logits and hidden states
      "frames"        shape, latent, width                      frames (n, *shape) in [0, 1] -> `b2m_fast.students.vae.VAEOutput`

    from b2m_fast.students import student

    @student("lstm", "long short-term memory", kind="trials")
    class LSTM(torch.nn.Module):
        def __init__(self, channels, classes, units, *, layers: int = 1): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from b2m_fast._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from b2m_fast.students.vae import VAEOutput

__all__ = ["FrameStudent", "ImageStudent", "TrialStudent", "student"]

student: Registry[Callable[..., Any]] = Registry(
    "student", "student", "b2m_fast.students", facts=("kind",)
)


class ImageStudent(Protocol):
    """A `torch.nn.Module` that classifies images and shows its layers.

    It may have the attribute ``memory_format``, a `torch.memory_format` in which it is fastest.
    """

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return logits (n, classes) of images (n, channels, size, size) in [0, 1]."""

    def taps(self, images: Tensor, /) -> list[Tensor]:
        """Return layers (n, channels, height, width), from input to output, that can be compared with a brain."""


class TrialStudent(Protocol):
    """A `torch.nn.Module` that answers at every step of a trial and shows its states."""

    units: int
    """Number of hidden units."""

    def __call__(
        self, inputs: Tensor, /, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits (steps, trials, classes) and hidden states (steps, trials, units) of inputs (steps, trials, channels).

        All noise comes from `generator`; without one there is none.
        """


class FrameStudent(Protocol):
    """A `torch.nn.Module` that reconstructs frames from latents."""

    latent: int
    """Number of latents."""

    def __call__(self, frames: Tensor, /, generator: torch.Generator | None = None) -> VAEOutput:
        """Return reconstruction, mean and log-variance of the latents of frames (n, channels, height, width) in [0, 1].

        Latents are drawn with `generator`; without one they are their mean.
        """

    def encode(self, frames: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (n, latent) of the latents."""
