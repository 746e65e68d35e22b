"""``b2m bench``: a minute of timing, to see what this machine makes of the ops.

The op, everybody's torch code for the same loss, and the reference of the op are timed in turns, so
that whatever else the machine does hits all of them alike. PyTorch is loaded when something is timed, and not for ``--help``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    Loss = Callable[[Tensor, Tensor], Tensor]


def machine() -> dict[str, str]:
    """Return what a table of times must say: processor, level, threads, versions. No name of the machine."""
    from b2m_fast import _info

    info = _info.collect()
    kept = {name: info["cpu"][name] for name in ("processor", "processors", "threads")}
    return {**kept, "level": info["cpu"]["level chosen"], **info["versions"]}


def interleave(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Time calls in turns: every round makes each call at most once, in random order.

    On a machine that others use too, times drift by more than the calls differ. Timed one after
    the other, the calls would meet different machines; in turns they meet the same one.

    Parameters
    ----------
    calls
        Named calls, already warm.
    seconds
        About how long all rounds may take. Each call gets an equal share of it, from 3 rounds (1
        if a single call takes a quarter of the time) to 100, spread evenly.

    Returns
    -------
    dict of list of float
        Seconds of every round of each call.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}

    def clock(name: str) -> None:
        start = time.perf_counter()
        result = calls[name]()
        times[name].append(time.perf_counter() - start)
        del result  # freed outside the timing

    for name in calls:
        clock(name)
    wanted = {}
    for name, (first,) in times.items():
        fewest = 1 if first > seconds / 4 else 3
        wanted[name] = min(100, max(fewest, int(seconds / len(calls) / first)))
    rounds = max(wanted.values(), default=1)
    order = random.Random(0)  # noqa: S311
    for k in range(1, rounds):
        due = [
            name
            for name, number in wanted.items()
            if k * (number - 1) // (rounds - 1) > (k - 1) * (number - 1) // (rounds - 1)
        ]
        order.shuffle(due)
        for name in due:
            clock(name)
    return times


def _eager_info_nce(query: Tensor, key: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import cross_entropy, normalize

    logits = normalize(query) @ normalize(key).T / 0.07
    labels = torch.arange(len(query))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def _eager_rsa_penalty(features: Tensor, target: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import normalize

    x, y = normalize(features), normalize(target)
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    c, t = (x @ x.T)[i, j], (y @ y.T)[i, j]
    e = 1e-5
    c, t = ((torch.log(1 + s + e) - torch.log(1 - s + e)) / 2 for s in (c, t))
    return (c - t).square().mean()


_EAGER: dict[str, Loss] = {"info_nce": _eager_info_nce, "rsa_penalty": _eager_rsa_penalty}


def _step(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """Forward and backward."""
    x.grad = None
    value = loss(x, y)
    value.backward()
    return value.detach()


def _line(name: str, n: int, d: int, seconds: float) -> str:
    """Time one op at one size and lay out the medians."""
    import torch

    from b2m_fast import ops

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    y = x + torch.randn(n, d, generator=generator)
    x.requires_grad_()
    losses: dict[str, Loss] = {
        "b2m_fast": getattr(ops, name),
        "torch eager": _EAGER[name],
        "reference": getattr(ops.reference, name),
    }
    calls = {who: partial(_step, loss, x, y) for who, loss in losses.items()}
    values = {who: float(call()) for who, call in calls.items()}
    expected = values["torch eager"]
    for who, value in values.items():
        if abs(value - expected) > 1e-3 * max(abs(expected), 1e-3):  # their times mean nothing
            raise SystemExit(f"{name}: {who} gives {value}, torch eager {expected}")
    medians = {who: statistics.median(t) for who, t in interleave(calls, seconds).items()}
    ours = medians["b2m_fast"]
    cells = [f"{1e3 * medians[who]:12.1f}" for who in losses]
    ratios = [f"{medians[who] / ours:9.1f}x" for who in losses if who != "b2m_fast"]
    return f"{name:<12}{n:>7}{d:>6}" + "".join(cells) + "".join(ratios)


def main(argv: Sequence[str] | None = None) -> int:
    """Time `info_nce` and `rsa_penalty` and print a table.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code 0.

    Raises
    ------
    SystemExit
        Code 1 with a message, where two contenders compute different losses.
    """
    parser = argparse.ArgumentParser(
        prog="b2m bench",
        description="Time losses, forward and backward, against eager torch and the reference. "
        "Less than a minute; for everything: make bench.",
    )
    parser.add_argument(
        "--n", nargs="+", type=int, default=[1024, 4096], help="rows; default: %(default)s"
    )
    parser.add_argument("--d", type=int, default=128, help="columns; default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="for each line; default: %(default)s"
    )
    options = parser.parse_args(argv)
    if min(options.n) < 2 or options.d < 1 or options.seconds <= 0:
        parser.error("--n must be at least 2, --d at least 1 and --seconds above 0")
    for fact, text in machine().items():
        print(f"{fact:<12}{text}")
    print("\nForward + backward, float32, median ms of calls made in turns; ratios to b2m_fast")
    print(
        f"{'op':<12}{'N':>7}{'D':>6}{'b2m_fast':>12}{'torch eager':>12}{'reference':>12}"
        f"{'eager':>10}{'reference':>10}"
    )
    for name in _EAGER:
        for n in options.n:
            print(_line(name, n, options.d, options.seconds), flush=True)
    return 0
