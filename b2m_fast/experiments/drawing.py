"""What the figures of all experiments share: sheets, curves and dots of seeds, names below an axis."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike

__all__ = ["curve", "named", "png", "sheet", "strip"]


def sheet(title: str, width: float, height: float) -> Any:
    """A figure with its title and no panels yet.

    Parameters
    ----------
    title : str
        Title.
    width, height : float
        In inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, which needs no display.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "the figure needs matplotlib: pip install 'b2m-fast[transfer]'"
        ) from error
    figure = FigureCanvasAgg(Figure(figsize=(width, height), layout="constrained")).figure
    figure.suptitle(title, fontsize=10)
    return figure


def png(figure: Any) -> bytes:
    """A figure as PNG.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.

    Returns
    -------
    bytes
        The file.
    """
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def curve(
    panel: Any, x: Sequence[float], y: ArrayLike, colour: str, *, band: float = 0.0, **line: Any
) -> None:
    """Mean over seeds as a line and, if there are several, their range as a band.

    Parameters
    ----------
    panel : matplotlib.axes.Axes
        Where.
    x : sequence of float
        Places.
    y : array_like
        (seeds, places).
    colour : str
        Colour.
    band : float, default 0
        How opaque the band is; 0: none.
    **line
        Of the line, as matplotlib's ``plot`` takes them.
    """
    values = np.asarray(y)
    panel.plot(x, values.mean(axis=0), color=colour, **line)
    if band and len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        panel.fill_between(x, low, high, color=colour, alpha=band, lw=0)


def strip(
    panel: Any,
    values: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
    *,
    hidden: Mapping[str, Sequence[float]] | None = None,
    middle: Callable[[Sequence[float]], Any] = np.median,
    dot: float = 4,
    bar: float = 18,
) -> None:
    """A column an arm: one dot a seed, and a bar in the middle.

    Parameters
    ----------
    panel : matplotlib.axes.Axes
        Where.
    values : dict
        Arm -> numbers.
    colours : dict
        Arm -> colour.
    hidden : dict, optional
        Arm -> numbers that are only known to be larger than this: open triangles.
    middle : callable
        Numbers, hidden ones as infinity -> the place of the bar; none is drawn if it is not finite.
    dot, bar : float
        Sizes.
    """
    for place, (arm, numbers) in enumerate(values.items()):
        late = [] if hidden is None else hidden.get(arm, [])
        panel.plot([place] * len(numbers), numbers, "o", color=colours[arm], alpha=0.5, ms=dot)
        panel.plot([place] * len(late), late, "^", color=colours[arm], mfc="none", ms=dot + 1)
        every = [*numbers, *(np.inf for _ in late)]
        if every and np.isfinite(at := middle(every)):
            panel.plot(place, at, "_", color=colours[arm], ms=bar, mew=2.5)
    named(panel, list(values))


def named(panel: Any, names: Sequence[str]) -> None:
    """Names below the places 0, 1, ...

    Parameters
    ----------
    panel : matplotlib.axes.Axes
        Where.
    names : sequence of str
        In order.
    """
    panel.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
