"""Measure the CUDA engine and its contenders: one JSON record a line, as soon as it is known.

    python benches/gpu/measure.py --out records.jsonl --seconds 230 [--short] [--rehearse]

The measuring is done by a child process, item by item. An item that crashes, hangs or loses the
device costs itself only: the parent notes it and goes on with the next in a new child.
--rehearse runs everything at toy sizes on the host, to show that it runs.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

import contenders
import timing

import b2m_fast as b2m
from b2m_fast.ops.engines import select

OURS = "b2m_fast"
DEPTHS = (64, 128, 256, 512, 1024)
SIZES = (8192, 32768)

Record = dict[str, Any]


class Item(NamedTuple):
    """Something measured in one go, within `seconds` (compilers included) or not at all."""

    name: str
    run: Callable[[Bench], None]
    seconds: float
    short: bool = False  # part of the short form


class Bench:
    """What items measure with: a clock, the sizes of this run, and where records go."""

    def __init__(self, rehearse: bool, emit: Callable[[Record], None]) -> None:
        self.rehearse = rehearse
        self.clock: timing.Clock = timing.Rehearsal() if rehearse else timing.Gpu()
        self.device = self.clock.name
        self._emit = emit

    def size(self, n: int) -> int:
        """n, or a toy size in its place."""
        return max(16, n // 512) if self.rehearse else n

    def budget(self, seconds: float) -> float:
        return seconds / 50 if self.rehearse else seconds

    def emit(self, case: str, contender: str, **facts: Any) -> None:
        self._emit({"case": case, "contender": contender, **facts})

    def normal(self, n: int, d: int, dtype: torch.dtype, seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(n, d, device=self.device, generator=generator).to(dtype)

    def turns(
        self,
        case: str,
        steps: dict[str, Step],
        absent: dict[str, str | None],
        seconds: float,
        **facts: Any,
    ) -> None:
        """Check every contender against ours, time those that agree, and report on all."""
        calls: dict[str, timing.Call] = {}
        ours: list[Tensor] | None = None
        for name, step in steps.items():
            reason = absent.get(name)
            if reason:
                self.emit(case, name, skipped=reason)
                continue
            try:
                results = step.results()
            except Exception as error:  # noqa: BLE001 - whatever another library raises
                self.emit(case, name, error=timing.describe(error))
                self.clock.recover()
                if ours is None:  # ours comes first: without it nothing can be compared
                    for other in (other for other in steps if other != name):
                        self.emit(case, other, skipped=f"{name} failed")
                    return
                continue
            ours = results if ours is None else ours
            problem = disagreement(results, ours, step.tolerance)
            if problem:
                self.emit(case, name, error=problem)
            else:
                calls[name] = step.call
        ours = None
        for name, timed in timing.interleave(self.clock, calls, self.budget(seconds)).items():
            self.emit(case, name, **summary(timed), **facts)
        for step in steps.values():
            step.forget()


class Step:
    """A loss of leaves: forward without gradients, or forward and backward."""

    def __init__(
        self, loss: Callable[[], Tensor], leaves: list[Tensor], backward: bool, tolerance: float
    ) -> None:
        self._loss, self._leaves, self._backward = loss, leaves, backward
        self.tolerance = tolerance

    def call(self) -> Tensor:
        self.forget()
        with torch.set_grad_enabled(self._backward):
            value = self._loss()
        if self._backward:
            value.backward()
        return value.detach()

    def results(self) -> list[Tensor]:
        value = self.call()
        return [value, *(leaf.grad for leaf in self._leaves[:2] if leaf.grad is not None)]

    def forget(self) -> None:
        for leaf in self._leaves:
            leaf.grad = None


def disagreement(results: list[Tensor], ours: list[Tensor], tolerance: float) -> str | None:
    """Say how results (a loss, and gradients) differ from ours in norm, if they do."""
    for name, theirs, mine in zip(("result", "gradient", "gradient"), results, ours, strict=False):
        difference = float((theirs.double() - mine.double()).norm())
        allowed = tolerance * float(mine.double().norm())
        if not difference <= allowed:  # NaN too
            return f"{name} differs from {OURS} by {difference:.3g}, more than {allowed:.3g}"
    return None


def summary(timed: timing.Timed) -> Record:
    facts: Record = {"error": timed.error} if timed.error else {}
    if timed.median is not None:
        facts |= {
            "median_ms": 1e3 * timed.median,
            "min_ms": 1e3 * min(timed.seconds),
            "rounds": len(timed.seconds),
        }
    if timed.peak_bytes is not None:
        facts["peak_mib"] = timed.peak_bytes / 2**20
    return facts


# --------------------------------------------------------------------------------------------------
# Items
# --------------------------------------------------------------------------------------------------
def ceilings(bench: Bench) -> None:
    """What this device multiplies and copies, with torch, on random data."""
    n = bench.size(8192)
    shapes = {"product": (n, n, n), "scores product": (bench.size(32768), bench.size(32768), 512)}
    for case, shape in shapes.items():
        call = contenders.product(*shape, torch.bfloat16, bench.device)
        timed = timing.interleave(bench.clock, {"torch.mm": call}, 1.0)["torch.mm"]
        bench.emit(case, "torch.mm", **summary(timed), flops=2 * shape[0] * shape[1] * shape[2])
    values = bench.size(16384) ** 2
    call = contenders.copy(values, bench.device)
    timed = timing.interleave(bench.clock, {"copy": call}, 1.0)["copy"]
    bench.emit("copy", "copy", **summary(timed), bytes=8 * values)


def _info_nce_inputs(bench: Bench, n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    query = bench.normal(n, d, dtype, 1)
    key = query + 2 * bench.normal(n, d, dtype, 2)
    scale = torch.tensor(1 / contenders.TEMPERATURE, device=bench.device)
    return [leaf.detach().requires_grad_() for leaf in (query, key, scale)]


def info_nce(
    bench: Bench, n: int, d: int, backward: bool, dtype: torch.dtype, others: tuple[str, ...]
) -> None:
    """Symmetric InfoNCE; gradients for both sides and, where a contender has one, the scale."""
    torch.set_float32_matmul_precision("highest")
    leaves = _info_nce_inputs(bench, bench.size(n), d, dtype)
    query, key, scale = leaves
    losses: dict[str, Callable[[], Callable[..., Tensor]]] = {
        OURS: lambda: lambda q, k, s: b2m.info_nce(q, k, logit_scale=s),
        "eager": lambda: contenders.eager_info_nce,
        "chunked": lambda: contenders.chunked_info_nce,
        "memeff": contenders.memeff_info_nce,
        "inf-cl": contenders.inf_cl_info_nce,
        "torch.compile": lambda: torch.compile(contenders.eager_info_nce, dynamic=False),
    }
    absent = {name: contenders.missing(name.replace("-", "_")) for name in ("memeff", "inf-cl")}
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-2
    facts = {
        "flops": (8 if backward else 2) * len(query) * len(key) * d,
        "pairs": len(query) * len(key),
    }
    kind = {torch.bfloat16: "bf16", torch.float32: "float32"}[dtype]
    mode = "step" if backward else "forward"
    case = f"info_nce {mode} {kind} N={n} D={d}"
    steps = {
        name: Step(_lazy(losses[name], query, key, scale), leaves, backward, tolerance)
        for name in (OURS, *others)
    }
    compiled = {name: steps.pop(name) for name in ("torch.compile",) if name in steps}
    if len(steps) > 1:
        bench.turns(case, steps, absent, 2.5, **facts)
    if compiled:
        torch.compiler.reset()
        bench.turns(f"{case} compiled", {OURS: steps[OURS], **compiled}, {}, 1.5, **facts)


def _lazy(make: Callable[[], Callable[..., Tensor]], *arguments: Tensor) -> Callable[[], Tensor]:
    """Load a contender at its first call, so that an import that fails is its own failure."""
    made: list[Callable[..., Tensor]] = []

    def loss() -> Tensor:
        if not made:
            made.append(make())
        return made[0](*arguments)

    return loss


def rsa_atanh(bench: Bench, dtype: torch.dtype, precision: str) -> None:
    """Li et al.'s penalty, N = 16,384, D = 2048, k = 4096."""
    torch.set_float32_matmul_precision(precision)
    n = bench.size(16384)
    x = bench.normal(n, bench.size(2048), torch.float32, 3)
    target = torch.cat([x, bench.normal(n, bench.size(4096) - x.shape[1], torch.float32, 4)], dim=1)
    features, target = x.to(dtype).requires_grad_(), target.to(dtype)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-2

    def ours() -> Tensor:
        return b2m.rsa_penalty(features, target, compare="atanh")

    def plain() -> Tensor:
        with select.forced("torch"):
            return b2m.rsa_penalty(features, target, compare="atanh")

    losses: dict[str, Callable[[], Tensor]] = {
        OURS: ours,
        "chunked": lambda: contenders.chunked_atanh(features, target),
        "chunked, compiled": lambda: contenders.chunked_atanh(
            features, target, contenders.compiled_formula()
        ),
        "our torch engine": plain,
    }
    steps = {name: Step(loss, [features], True, tolerance) for name, loss in losses.items()}
    name = "bf16" if dtype == torch.bfloat16 else f"float32 {precision}"
    bench.turns(f"rsa_penalty atanh {name}", steps, {}, 6.0, pairs=n * (n - 1) // 2)


def pairwise(bench: Bench, dtype: torch.dtype, precision: str) -> None:
    """Cosine similarities of all pairs, N = 16,384, D = 256, into a float32 matrix."""
    torch.set_float32_matmul_precision(precision)
    n = bench.size(16384)
    x = bench.normal(n, 256, dtype, 5)
    out = torch.empty(n, n, device=bench.device)
    losses: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: b2m.pairwise_similarity(x, out=out),
        "eager": lambda: contenders.eager_cosine(x),
    }
    steps = {name: Step(loss, [], False, 0.02) for name, loss in losses.items()}
    name = "bf16" if dtype == torch.bfloat16 else f"float32 {precision}"
    bench.turns(f"pairwise_similarity {name}", steps, {}, 2.0, bytes=4 * n * n)


def million(bench: Bench) -> None:
    """1,048,576 x 1,048,576 pairs, D = 512, bf16, forward and backward, once."""
    small = _info_nce_inputs(bench, bench.size(8192), 512, torch.bfloat16)
    b2m.info_nce(small[0], small[1], logit_scale=small[2]).backward()  # loads the kernels
    del small
    leaves = _info_nce_inputs(bench, bench.size(1 << 20), 512, torch.bfloat16)
    query, key, scale = leaves
    step = Step(lambda: b2m.info_nce(query, key, logit_scale=scale), leaves, True, 0)
    seconds: list[float] = []
    held = bench.clock.held_bytes()
    peak = bench.clock.peak_bytes(lambda: seconds.append(bench.clock.seconds(step.call)))
    finite = all(bool(leaf.grad is not None and leaf.grad.isfinite().all()) for leaf in leaves)
    bench.emit(
        "million",
        OURS,
        median_ms=1e3 * seconds[0],
        min_ms=1e3 * seconds[0],
        rounds=1,
        peak_mib=peak / 2**20,
        total_mib=(peak + held) / 2**20,
        **({} if finite else {"error": "gradients are not finite"}),
    )


def launch(bench: Bench) -> None:
    """A small step: what the host costs; and the same replayed as a CUDA graph."""
    info_nce(bench, 1024, 128, True, torch.bfloat16, ("eager", "memeff"))
    if bench.rehearse:
        return
    leaves = _info_nce_inputs(bench, 1024, 128, torch.bfloat16)
    step = Step(lambda: b2m.info_nce(leaves[0], leaves[1], logit_scale=leaves[2]), leaves, True, 0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step.call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    step.forget()
    with torch.cuda.graph(graph):
        step.call()
    timed = timing.interleave(bench.clock, {"graph": graph.replay}, 1.0)["graph"]
    bench.emit("info_nce step bf16 N=1024 D=128", "b2m_fast, CUDA graph", **summary(timed))


def items() -> list[Item]:
    """Everything, the most telling first: what comes last is lost if time runs out."""
    bf16, single = torch.bfloat16, torch.float32
    everyone = ("eager", "chunked", "memeff", "inf-cl")
    found = [
        Item("ceilings", ceilings, 30, short=True),
        Item(
            "forward",
            partial(info_nce, n=32768, d=512, backward=False, dtype=bf16, others=("eager",)),
            40,
            short=True,
        ),
        Item("pairwise", partial(pairwise, dtype=bf16, precision="highest"), 30, short=True),
        Item("rsa bf16", partial(rsa_atanh, dtype=bf16, precision="highest"), 60, short=True),
        Item("million", million, 60, short=True),
    ]
    for n in reversed(SIZES):
        found += [
            Item(
                f"step N={n} D={d}",
                partial(info_nce, n=n, d=d, backward=True, dtype=bf16, others=everyone),
                60,
                short=(n, d) == (32768, 512),
            )
            for d in sorted(DEPTHS, key=lambda d: d != 512)
        ]
    found += [
        Item(
            f"float32 N={n} D={d}",
            partial(info_nce, n=n, d=d, backward=True, dtype=single, others=("eager", "chunked")),
            40,
        )
        for n, d in ((8192, 512), (16384, 512), (8192, 128), (16384, 128))
    ]
    for precision in ("highest", "high"):
        found.append(
            Item(f"rsa {precision}", partial(rsa_atanh, dtype=single, precision=precision), 60)
        )
        found.append(
            Item(f"pairwise {precision}", partial(pairwise, dtype=single, precision=precision), 30)
        )
    found.append(Item("launch", launch, 30))
    # Last: compiling takes longer than everything that is measured.
    found += [
        Item(
            f"compiled N={n} D={d}",
            partial(info_nce, n=n, d=d, backward=True, dtype=bf16, others=("torch.compile",)),
            60,
        )
        for n in reversed(SIZES)
        for d in sorted(DEPTHS, key=lambda d: d != 512)
    ]
    return found


# --------------------------------------------------------------------------------------------------
# Child and parent
# --------------------------------------------------------------------------------------------------
def child(names: list[str], rehearse: bool) -> int:
    """Measure the named items; lines on standard output are records, or say what goes on."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

    def say(line: Record) -> None:
        print(json.dumps(line), flush=True)

    bench = Bench(rehearse, say)
    if rehearse:
        torch.set_num_threads(1)
    by_name = {item.name: item for item in items()}
    for name in names:
        say({"begin": name})
        try:
            by_name[name].run(bench)
        except timing.LostDeviceError as error:
            say({"failed": name, "error": f"the device is lost: {error}"[:200]})
            return 3
        except Exception as error:  # noqa: BLE001 - one item is one item
            say({"failed": name, "error": timing.describe(error)})
            bench.clock.recover()
        say({"end": name})
        if not rehearse:
            torch.cuda.empty_cache()
    return 0


class Child:
    """A child process, and what it says."""

    def __init__(self, names: list[str], rehearse: bool) -> None:
        command = [sys.executable, __file__, "--child", *names]
        if rehearse:
            command.append("--rehearse")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._lines.put(line)
        self._lines.put(None)

    def next(self, seconds: float) -> Record | None:
        """Return what the child says next; None: it ended. queue.Empty: nothing in time."""
        line = self._lines.get(timeout=max(0.0, seconds))
        while line is not None and not line.startswith("{"):
            line = self._lines.get(timeout=max(0.0, seconds))
        return None if line is None else json.loads(line)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


STARTING = 60.0  # seconds until a child has imported everything and opened the device


def measure_all(names: list[str], seconds: float, rehearse: bool, out: IO[str]) -> None:
    """Run items in children until all are done or time is up; write what they say to `out`."""
    limits = {item.name: item.seconds for item in items()}
    end = time.monotonic() + seconds
    left = list(names)

    def note(record: Record) -> None:
        out.write(json.dumps(record) + "\n")
        out.flush()

    def fail(name: str, why: str) -> None:
        note({"failed": name, "error": why})
        left.remove(name)

    while left and time.monotonic() < end:
        running, current = Child(left, rehearse), None
        deadline = time.monotonic() + STARTING
        try:
            while (said := running.next(min(deadline, end) - time.monotonic())) is not None:
                if "begin" in said:
                    current = str(said["begin"])
                    deadline = time.monotonic() + limits[current]
                    print(f"{seconds - (end - time.monotonic()):6.1f} s  {current}", flush=True)
                elif "end" in said:
                    left.remove(said["end"])
                    current, deadline = None, time.monotonic() + STARTING
                else:
                    note(said)
            if left:
                fail(current or left[0], f"the process ended with {running.process.wait()}")
        except queue.Empty:
            if current or time.monotonic() < end:
                fail(current or left[0], "stopped: it took too long, or no time was left")
        finally:
            running.stop()
    for name in left:
        note({"failed": name, "error": "not begun: no time was left"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("records.jsonl"))
    parser.add_argument("--seconds", type=float, default=230)
    parser.add_argument("--short", action="store_true", help="the most telling items only")
    parser.add_argument("--only", nargs="*", default=[], help="names of items")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on the host")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.rehearse)
    if not options.rehearse and not torch.cuda.is_available():
        print("measure.py: torch finds no CUDA device", file=sys.stderr)
        return 1
    names = [item.name for item in items() if item.short or not options.short]
    names = [name for name in names if not options.only or name in options.only]
    with options.out.open("w", encoding="utf-8") as out:
        measure_all(names, options.seconds, options.rehearse, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
