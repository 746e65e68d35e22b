"""A cortex and a task so small that a whole run takes a fraction of a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from b2m_fast.data.images import ImageTask, digits
from b2m_fast.experiments import regularize_experiment as lab
from b2m_fast.teachers.synthetic import synthetic_brain


def small_digits(_: int) -> ImageTask:
    """The digits at their own 8 x 8 pixels, 128 + 50 + 50 of them."""
    task = digits(size=8)
    parts: dict[str, Any] = {
        f"{part}_{axis}": getattr(task, f"{part}_{axis}")[:count]
        for part, count in (("train", 128), ("validation", 50), ("test", 50))
        for axis in "xy"
    }
    return replace(task, **parts)


def small_brain() -> Any:
    """Two synthetic populations of ten neurons and 60 images."""
    return synthetic_brain(images=60, neurons=10, repeated=20, repeats=5)


def shrink(patch: Any = setattr) -> None:
    """Put both in the place of what `b2m regularize` uses."""
    patch(lab, "digits", small_digits)
    patch(lab, "synthetic_brain", small_brain)


if __name__ == "__main__":
    import sys

    from b2m_fast.cli import main

    shrink()
    sys.exit(main())
