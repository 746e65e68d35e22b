"""Golden histories of the three methods: the commands, how results are read, what may differ.

A change that is not meant to change a number is checked with two installations side by side on one
machine; what is equal to the bit is said::

    python python_tests/golden/compare.py --old OLD --new NEW [--only NAME ...]

OLD and NEW are Pythons, or folders that hold `b2m_fast` with its built module (site-packages).
``--freeze`` writes histories.json anew, for a change that is meant to change numbers.

The histories are those of 6129af9, from before the Python layer was rebuilt, but for penalties of
mediated transfer that ties decide, and for regularisation, frozen again when its `method_version` was
raised: with the images' memory laid out as now, the code of 6129af9 gives its arms `none` and `blur` to
the bit, and the others up to the rounding of their targets.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HISTORIES = Path(__file__).with_name("histories.json")


@dataclass(frozen=True)
class Command:
    """A tiny experiment.

    Attributes
    ----------
    line : str
        What is typed after ``b2m``.
    data : bool
        Whether it needs recordings (B2M_DATA).
    slow : bool
        Whether it takes more than a few seconds.
    """

    line: str
    data: bool = False
    slow: bool = False

    @property
    def simulated(self) -> bool:
        """Whether the brain is a network seen through simulated neurons."""
        return self.line.startswith("transfer") and "--brain" not in self.line

    def arguments(self, out: Path) -> list[str]:
        """All arguments, with those that every command has."""
        always = "--seeds 0 --workers 1 --threads 1 --quiet"
        return [*self.line.split(), *always.split(), "--out", str(out)]


REGULARIZE = "regularize --width 4 --batch 600 --epochs 3 --attack-images 50"
TRIALS = "--units 12 --neurons 24 --network-steps 30 --batch 16 --steps 24 --every 4"
RECORDED = "--units 12 --batch 16 --steps 24 --every 4"
FRAMES = "--units 12 --neurons 24 --network-steps 8 --batch 8 --steps 8 --every 4"
SCENES = "--units 12 --batch 8 --steps 8 --every 4"
MEDIATED = (
    "mediated --size 32 --taps _blocks.3 --grid 2 --components 40 --sizes 10 40 --draws 2 --folds 5"
)
SIMULATED = f"{MEDIATED} --observers 4 --units 12"
FEW = "--arms none brain"
ANY = "--arms none zero brain shuffled gaussian relabelled random-code label network"
LATENT, CONTRASTIVE = "transfer latent", "transfer contrastive"

COMMANDS = {
    # b2m regularize
    "regularize": Command(
        f"{REGULARIZE} --arms none neural neural-shuffled raw pixel pixel-threshold blur"
    ),
    "regularize random-pairs": Command(f"{REGULARIZE} --pairs random --arms neural", slow=True),
    "regularize center-batch": Command(f"{REGULARIZE} --center batch --arms neural", slow=True),
    "regularize center-none": Command(f"{REGULARIZE} --center none --arms neural", slow=True),
    "regularize shared": Command(f"{REGULARIZE} --batchnorm shared --arms neural", slow=True),
    "regularize together": Command(
        f"{REGULARIZE} --pairs random --center none --batchnorm shared --alpha 20 --arms neural"
    ),
    "regularize cnn": Command(
        f"{REGULARIZE} --denoiser gabor+efficientnet --arms neural cnn", slow=True
    ),
    "regularize longer": Command(
        "regularize --width 8 --batch 64 --epochs 6 --arms none neural", slow=True
    ),
    # b2m transfer latent
    "latent gru": Command(f"{LATENT} {TRIALS} --shares 0.05 {ANY} reversed phase"),
    "latent rnn": Command(f"{LATENT} --student rnn {TRIALS} {ANY} reversed phase"),
    "latent fixed": Command(f"{LATENT} {TRIALS} --readout fixed --weight 0.3 {FEW}"),
    "latent ridge": Command(f"{LATENT} {TRIALS} --readout ridge --components 3 {FEW}"),
    "latent cosine": Command(f"{LATENT} {TRIALS} --schedule cosine {FEW}"),
    "latent pretrain": Command(f"{LATENT} {TRIALS} --schedule pretrain --until 0.3 {FEW}"),
    "latent fa": Command(f"{LATENT} {TRIALS} --latents fa {FEW}"),
    "latent dpca": Command(f"{LATENT} {TRIALS} --latents dpca {FEW}"),
    "latent cebra": Command(f"{LATENT} {TRIALS} --latents contrastive-embedding {FEW}", slow=True),
    **{
        f"latent {student} {task}": Command(
            f"{LATENT} --student {student} --task {task} {TRIALS} {FEW}"
        )
        for student in ("gru", "rnn")
        for task in ("direction", "parametric-working-memory", "delay-direction-rule")
    },
    "latent vae": Command(f"{LATENT} --student vae {FRAMES} --arms none brain label"),
    "latent vae all": Command(f"{LATENT} --student vae {FRAMES} {ANY} pixel", slow=True),
    # b2m transfer contrastive
    "contrastive gru": Command(f"{CONTRASTIVE} --student gru {TRIALS} {ANY}"),
    "contrastive rnn": Command(
        f"{CONTRASTIVE} --student rnn {TRIALS} --temperature 0.2 --learn-temperature"
        f" --dimension 16 --components 5 {FEW}"
    ),
    "contrastive vae": Command(f"{CONTRASTIVE} {FRAMES} {FEW}"),
    "contrastive vae all": Command(f"{CONTRASTIVE} {FRAMES} {ANY} pixel", slow=True),
    # b2m mediated
    "mediated ratings": Command(f"{SIMULATED} --labels ratings"),
    "mediated mean": Command(f"{SIMULATED} --labels ratings --combine mean"),
    "mediated outside": Command(f"{SIMULATED} --labels ratings --planted outside"),
    "mediated digits": Command(f"{SIMULATED} --labels digits"),
    "mediated digits outside mean": Command(
        f"{SIMULATED} --labels digits --planted outside --combine mean"
    ),
    # what a user gets who says nothing: learning rates, steps, sizes
    **{
        f"default {student} {task}": Command(
            f"{LATENT} --student {student} --task {task} --arms none", slow=True
        )
        for student in ("gru", "rnn")
        for task in (
            "direction",
            "delay-match-sample",
            "parametric-working-memory",
            "delay-direction-rule",
        )
    },
    # recordings
    "pfc-memory": Command(f"{LATENT} --brain pfc-memory {RECORDED} {FEW} label", data=True),
    "steinmetz": Command(f"{LATENT} --brain steinmetz {RECORDED} {FEW} label", data=True),
    "hippocampus": Command(f"{LATENT} --brain hippocampus {RECORDED} {FEW} label", data=True),
    "contrastive pfc-memory": Command(
        f"{CONTRASTIVE} --student gru --brain pfc-memory {RECORDED} {FEW}", data=True
    ),
    "camvid": Command(
        f"{CONTRASTIVE} --brain cowley-v4 --task camvid {SCENES} {FEW}", data=True, slow=True
    ),
    "driving": Command(
        f"{CONTRASTIVE} --brain cowley-v4 --task driving --stimuli images {SCENES} {FEW}",
        data=True,
    ),
    "mediated cowley-v4": Command(f"{MEDIATED} --brain cowley-v4 --labels attributes", data=True),
    "mediated object2vec": Command(f"{MEDIATED} --brain object2vec --labels attributes", data=True),
    "regularize cowley-v4": Command(
        f"{REGULARIZE} --brain cowley-v4 --task digits --arms none neural", data=True, slow=True
    ),
    "regularize cifar10": Command(
        "regularize --brain cowley-v4 --width 4 --batch 2000 --epochs 1 --attack-images 8"
        " --arms neural",
        data=True,
        slow=True,
    ),
}


# --------------------------------------------------------------------------------------------------
# Running, and reading what was written
# --------------------------------------------------------------------------------------------------
def b2m(arguments: Sequence[str]) -> int:
    """Run the command ``b2m`` of the package that is installed, in this process."""
    (found,) = entry_points(group="console_scripts", name="b2m")
    try:
        return int(found.load()(list(arguments)))
    except SystemExit as stop:
        return int(str(stop.code or 0))


# Settings that do not matter to the command and are none now, or stand in another place; and what
# nobody read.
GONE = re.compile(
    r"/settings/(width|blocks|beta|session|teacher/session|task_options/.*|evaluation/delays_ms/.*)$|/teacher/(image_sets/|brain/trials_used_again)"
)
FORMERLY = {"contrastive-embedding": "cebra"}  # values of options, for an old installation
IGNORED = {"seconds", "seconds_training", "seconds_evaluation", "versions", "machine", "words"}


def numbers(value: Any) -> Any:
    """What is compared of a result: its numbers, truths and gaps, not texts, times and versions."""
    if isinstance(value, dict):
        found = {k: numbers(v) for k, v in value.items() if k not in IGNORED}
        return {k: v for k, v in found.items() if v is not ...}
    if isinstance(value, list):
        return [numbers(v) for v in value if not isinstance(v, str)]
    return ... if isinstance(value, str) else value


def read(out: Path) -> dict[str, Any]:
    """What a command found: its settings, its teacher's report, each run by arm and seed."""
    full = json.loads((out / "results.json").read_text())
    stored = [json.loads(path.read_text())["result"] for path in sorted(out.glob("runs/*.json"))]
    runs = {f"{run['arm']} seed {run['seed']}": numbers(as_formerly(run)) for run in stored}
    settings = as_formerly(full["experiment" if "experiment" in full else "settings"])
    teacher = numbers(full["teacher"])
    return {"settings": settings, "teacher": teacher, "runs": dict(sorted(runs.items()))}


def as_formerly(found: dict[str, Any]) -> dict[str, Any]:
    """Settings or a run under the names of 6129af9."""
    former = {"time_to_criterion": "arrival"} | (
        {"training": "loop"} if "transfer" in found else {}
    )
    found = {former.get(key, key): value for key, value in found.items()}
    if isinstance(found.get("delays"), dict):
        found["delays"] = list(found["delays"].values())[1:]
    if isinstance(shares := found.pop("shares", None), dict):
        found["efficiency"] = [
            as_formerly({"share": float(share), **run}) for share, run in shares.items()
        ]
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The ends of a tree with the path to each; the length of a list is one of them."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, f"{path}/{key}")
    elif isinstance(value, list):
        yield f"{path}/length", len(value)
        for place, below in enumerate(value):
            yield from leaves(below, f"{path}/{place}")
    else:
        yield path, value


# --------------------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------------------
# A last bit can change everything: spikes of simulated neurons are drawn from rates that a network
# computes, so that one of them comes or stays away, and early steps of SGD double an error many times
# over. Numbers are compared closely where a machine computes as the one did on which they were frozen,
# which `arithmetic` tells. Elsewhere arms that simulated neurons have a part in are left out, and the
# limit is a multiple of what other instruction sets made of the rest on that machine, with room for
# some samples on the other side of a decision.
CLOSE = {"relative": 1e-4, "absolute": 1e-7}
ELSEWHERE = {"relative": 1e-3, "absolute": 1e-6, "times": 10}
BRAINLESS = ("none", "label")
COUNTED = {  # shares of samples, and medians over few of them
    "accuracy": 0.02, "validation_accuracy": 0.02, "noise": 0.02, "delays": 0.02, "area": 0.02,
    "retrieval": 0.1, "retrieval_reverse": 0.1, "pgd_linf": 0.1, "pgd_l2": 0.1,
    "minimal_linf": 0.02, "minimal_l2": 0.5, "minimal_linf_all_images": 0.02,
    "minimal_l2_all_images": 0.5, "r": 0.01, "r_per_layer": 0.01, "probe_r2": 0.1,
    "step": 0, "best_epoch": 1,
}  # fmt: skip
POORER: tuple[dict[str, str], ...] = (
    {"B2M_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell"},
    {"B2M_ISA": "generic", "ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem",
     "MKL_CBWR": "COMPATIBLE", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4"},
)  # fmt: skip


def arithmetic() -> dict[str, str]:
    """Versions, level, and a hash of results that are the same where everything is, to the bit."""
    import numpy as np
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as every command here; more of them sum in another order
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(16, 4, 16, 16, generator=draw)
    weight = torch.randn(8, 4, 3, 3, generator=draw, requires_grad=True)
    a, b = torch.randn(96, 64, generator=draw), torch.randn(64, 12, generator=draw)
    loss = torch.conv2d(image, weight).exp().mean() + (a @ b).tanh().logsumexp(1).mean()
    (slope,) = torch.autograd.grad(loss, weight)
    x = a.double().numpy()
    found = [loss.detach().numpy(), slope.numpy(), x.T @ x, np.linalg.svd(x)[1], np.exp(x)]
    torch.set_num_threads(threads)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(f).tobytes() for f in found))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        b2m(["info"])
    level = re.search(r"level chosen +(\S+)", said.getvalue())
    return {
        "torch": torch.__version__, "numpy": np.__version__,
        "level": level[1] if level else "?", "results": digest.hexdigest()[:16],
    }  # fmt: skip


def distance(a: Any, b: Any) -> float:
    """Absolute difference of two ends; infinite where something else than two numbers differs."""
    if a == b and type(a) is type(b):
        return 0.0
    both = isinstance(a, int | float) and isinstance(b, int | float)
    return abs(a - b) if both and not isinstance(a, bool) else math.inf


def pairs(old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Ends of the old tree with those of the new one, or "missing"; no penalty is counted as 0."""
    there = dict(leaves(new))
    for path, value in leaves(old):
        if not GONE.match(path):
            yield path, value, there.get(path, 0 if "/penalties/" in path else "missing")


def kind(path: str) -> str:
    """What a number is, without its arm and its places in lists."""
    parts = [part for part in path.split("/") if part and not part.isdigit()]
    return "/".join(parts[2:] if parts[0] == "runs" else parts)


def steady(command: Command, found: dict[str, Any]) -> dict[str, Any]:
    """The part of a result that is to be found on other kinds of machines, too."""
    if not command.simulated:
        return found
    runs = {name: run for name, run in found["runs"].items() if name.split()[0] in BRAINLESS}
    return {"settings": found["settings"], "runs": runs}


def spread(command: Command, old: dict[str, Any], others: Sequence[Any]) -> dict[str, float]:
    """Largest differences from what other instruction sets made of a command, by kind of number."""
    found: dict[str, float] = {}
    for other in others:
        for path, a, b in pairs(steady(command, old), other):
            found[kind(path)] = max(found.get(kind(path), 0.0), distance(a, b))
    return {key: far for key, far in found.items() if far > 0}


def unlike(
    command: Command, old: dict[str, Any], new: dict[str, Any], *, close: bool
) -> dict[str, tuple[Any, Any]]:
    """Where a result is further from the frozen one than it may be: path -> frozen, found.

    Parameters
    ----------
    command : Command
        The command.
    old, new : dict
        As `read` returns it; the frozen one with its ``spread``.
    close : bool
        Whether this machine computes as the one on which it was frozen.
    """
    limits = CLOSE if close else ELSEWHERE
    wanted = {key: part for key, part in old.items() if key != "spread"}
    found = {}
    for path, a, b in pairs(wanted if close else steady(command, wanted), new):
        far = distance(a, b)
        limit = 0.0
        if path.startswith("/settings"):
            limit = 1e-8 * abs(a) if isinstance(a, float) else 0.0
        elif isinstance(a, float):
            limit = limits["absolute"] + limits["relative"] * abs(a)
        if not close and not path.startswith("/settings"):
            limit += limits["times"] * old["spread"].get(kind(path), 0.0)
            limit += COUNTED.get(kind(path).rpartition("/")[2], 0.0)
            limit = math.inf if "/penalties/" in path and far < math.inf else limit
        if far > limit:
            found[path] = (a, b)
    return found


# --------------------------------------------------------------------------------------------------
# The command line
# --------------------------------------------------------------------------------------------------
def run_all(out: Path, names: Sequence[str]) -> int:
    """Run commands one after the other in this process; what each found becomes a JSON file."""
    for name in names:
        folder = out / name.replace(" ", "-")
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            arguments = COMMANDS[name].arguments(folder)
            code = b2m(arguments)
            if code == 2:
                code = b2m([FORMERLY.get(argument, argument) for argument in arguments])
        found = read(folder) if code == 0 else {"exit code": code}
        folder.with_suffix(".json").write_text(json.dumps(found))
        print(f"  {out.name} {name}: exit code {code}", file=sys.stderr, flush=True)
    return 0


def start(
    installation: Path, out: Path, names: Sequence[str], changes: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start all commands with one installation, in a process of its own."""
    out.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "B2M_CACHE": str(out / "cache"), **changes}
    python = sys.executable
    if installation.is_dir():
        environment["PYTHONPATH"] = str(installation)
    else:
        python = str(installation)
    where = subprocess.run(
        [python, "-c", "import b2m_fast; print(b2m_fast.__file__)"],
        cwd=out, env=environment, check=True, text=True, stdout=subprocess.PIPE,
    ).stdout.strip()  # fmt: skip
    print(f"{out.name}: {where}", flush=True)
    if installation.is_dir() and installation.resolve() not in Path(where).resolve().parents:
        raise SystemExit(f"another b2m_fast comes before that of {installation}: give its Python")
    command = [python, __file__, "--into", str(out), "--only", *names]
    return subprocess.Popen(command, cwd=out, env=environment)


def results(out: Path, name: str) -> dict[str, Any]:
    """What `run_all` wrote about a command."""
    found: dict[str, Any] = json.loads((out / f"{name.replace(' ', '-')}.json").read_text())
    return found


def relative(a: Any, b: Any) -> float:
    """Relative difference of two ends."""
    far = distance(a, b)
    return far / max(abs(a), abs(b)) if 0 < far < math.inf else far


def side_by_side(old: Path, new: Path, names: Sequence[str]) -> int:
    """Run commands with two installations, and say what differs. Exit code: 1 if anything does."""
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        sides = {Path(folder, "old"): old, Path(folder, "new"): new}
        running = [start(installation, side, names, {}) for side, installation in sides.items()]
        codes = [process.wait() for process in running]
        if any(codes):
            return 2
        for name in names:
            before, after = (results(side, name) for side in sides)
            far = {path: relative(a, b) for path, a, b in pairs(before, after)}
            worst = max(far, key=lambda path: far[path])
            count = sum(f > 0 for f in far.values())
            words = f"{count} of {len(far)} differ, most by {far[worst]:.1e} (relative): {worst}"
            if "exit code" in before:
                words, count = f"the old one ended with exit code {before['exit code']}", 1
            print(f"{name}: {words if count else 'equal to the bit'}")
            code = max(code, int(count > 0))
    return code


def rounded(value: Any, digits: int) -> Any:
    """A tree with its numbers to some significant digits."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def as_text(golden: dict[str, Any]) -> str:
    """JSON with a line for every run, which is what a diff should show."""

    def lines(value: Any, depth: int) -> str:
        if depth == 0 or not isinstance(value, dict):
            return json.dumps(value, separators=(",", ":"))
        inner = ",\n".join(f"{json.dumps(k)}: {lines(v, depth - 1)}" for k, v in value.items())
        return f"{{\n{inner}\n}}"

    return lines(golden, 4) + "\n"


def freeze(names: Sequence[str]) -> int:
    """Write what the commands find into histories.json; of quick ones, how it spreads."""
    golden = json.loads(HISTORIES.read_text()) if HISTORIES.exists() else {}
    here = arithmetic()
    commands = golden.get("commands", {}) if golden.get("arithmetic") == here else {}
    if not commands and set(names) < set(COMMANDS):
        raise SystemExit("frozen on another kind of machine: freeze all commands, with B2M_DATA")
    quick = [name for name in names if not COMMANDS[name].slow]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(sys.executable)
        out = Path(folder, "here")
        if start(python, out, names, {}).wait():
            return 2
        others = [Path(folder, f"poorer-{place}") for place in range(len(POORER))]
        for other, changes in zip(others, POORER, strict=True):
            if quick and start(python, other, quick, changes).wait():
                return 2
        for name in names:
            found = results(out, name)
            if name in quick:
                found["spread"] = spread(
                    COMMANDS[name], found, [results(other, name) for other in others]
                )
                found["spread"] = rounded(found["spread"], 2)
            commands[name] = rounded(found, 9)
    ordered = {name: commands[name] for name in COMMANDS if name in commands}
    HISTORIES.write_text(as_text({"arithmetic": here, "commands": ordered}))
    return 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, help="Python, or folder that holds b2m_fast")
    parser.add_argument("--new", type=Path, help="likewise")
    parser.add_argument("--freeze", action="store_true", help="write histories.json")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, metavar="NAME", help="default: all")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    can = [n for n, c in COMMANDS.items() if not c.data or "B2M_DATA" in os.environ]
    names = options.only or can
    if options.into:
        return run_all(options.into, names)
    if options.freeze:
        return freeze(names)
    if not (options.old and options.new):
        parser.error("give --old and --new, or --freeze")
    return side_by_side(options.old.absolute(), options.new.absolute(), names)


if __name__ == "__main__":
    sys.exit(main())
