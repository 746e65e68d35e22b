"""Stored runs: whole files or none, skipped when done, repeated when broken, shared by processes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from b2m_fast.data.files import digest, write_atomically
from b2m_fast.experiments.former import Settings, as_json, jobs, with_history
from b2m_fast.experiments.mediated_settings import MediatedExperiment
from b2m_fast.experiments.regularize_experiment import Experiment
from b2m_fast.experiments.runs import Job, RunStore, perform


def job(name: str, **config: Any) -> Job:
    return Job(name, {"name": name, **config})


def double(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
    """A run: succeeds, fails, or takes its process down."""
    tick()
    if job.config.get("fail"):
        raise RuntimeError("as asked")
    if job.config.get("die"):
        os._exit(7)
    return {"value": 2 * job.config["x"]}


def test_digest_ignores_order_and_sees_values() -> None:
    """The hash depends on the settings, not on their order."""
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_write_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails half way leaves the old content and no litter."""
    path = tmp_path / "new" / "a.json"
    write_atomically(path, "old")

    def broken(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_store_returns_what_it_saved(tmp_path: Path) -> None:
    """A result is found again."""
    store = RunStore(tmp_path)
    assert store.load(job("a", x=1)) is None
    store.save(job("a", x=1), {"value": 2})
    assert store.load(job("a", x=1)) == {"value": 2}


def test_other_settings_overwrite_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Runs of one name and other settings lie side by side; the old settings find the old run."""
    store = RunStore(tmp_path)
    store.save(job("a", x=1), {"value": 2})
    with caplog.at_level(logging.WARNING, "b2m_fast"):
        assert store.load(job("a", x=2)) is None
        store.save(job("a", x=2), {"value": 4})
        assert store.load(job("a", x=1)) == {"value": 2}
        assert store.load(job("a", x=2)) == {"value": 4}
    assert not caplog.text
    assert all(p.name.startswith("a-") for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"config_hash": 1}',
     b'{"config_hash": 1, "result": {}}'],
)  # fmt: skip
def test_unreadable_results_are_put_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A truncated or foreign file is kept under another name, and the run is repeated."""
    path = RunStore(tmp_path).path(job("a", x=1))
    path.write_bytes(content)
    assert RunStore(tmp_path).load(job("a", x=1)) is None
    assert "put aside" in caplog.text
    assert path.with_name(path.name + ".unreadable").read_bytes() == content
    assert not path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_failures(tmp_path: Path, workers: int) -> None:
    """Every job ends as a stored result or an error with its traceback; ticks arrive."""
    jobs = [job("a", x=1), job("b", x=2, fail=True), job("c", x=3)]
    ticks: list[int] = []
    store = RunStore(tmp_path)
    outcomes = list(perform(double, jobs, store, workers=workers, tick=lambda: ticks.append(1)))
    results = {o.job.name: o for o in outcomes}
    assert results["a"].result == store.load(jobs[0]) == {"value": 2}
    assert results["c"].result == {"value": 6}
    assert results["b"].result is None
    assert "RuntimeError: as asked" in str(results["b"].error)
    assert len(ticks) == 3
    assert set(tmp_path.iterdir()) == {store.path(jobs[0]), store.path(jobs[2])}


def test_a_dying_process_is_a_failed_run(tmp_path: Path) -> None:
    """A process that dies is an error with its exit code, and the others go on."""
    jobs = [job("a", x=1, die=True), job("b", x=2)]
    outcomes = {o.job.name: o for o in perform(double, jobs, RunStore(tmp_path), workers=2)}
    assert "code 7" in str(outcomes["a"].error)
    assert outcomes["b"].result == {"value": 4}


def sleep(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
    tick()
    time.sleep(60)
    return {}


def test_stopping_ends_the_processes(tmp_path: Path) -> None:
    """A KeyboardInterrupt in this process ends the running ones at once and keeps what is stored."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(perform(sleep, [job("a"), job("b")], RunStore(tmp_path), workers=2, tick=interrupt))
    assert time.monotonic() - start < 45
    assert not list(tmp_path.iterdir())


def test_files_are_plain_json(tmp_path: Path) -> None:
    """A stored run carries its settings beside its result."""
    store = RunStore(tmp_path)
    store.save(job("a", x=1), {"value": 2})
    stored = json.loads(store.path(job("a", x=1)).read_text())
    assert stored["config"] == {"name": "a", "x": 1}
    assert set(stored) == {"config", "config_hash", "result"}


def test_results_as_text_keep_every_number_but_digits_of_curves() -> None:
    """What `b2m compare` reads back is what was run; entries differ in what they hold."""
    run = {
        "arm": "none",
        "seed": 0,
        "area": 1 / 3,
        "history": [{"step": 0, "error": 1 / 3}, {"step": 5, "loss": None, "error": 2e-7 / 3}],
    }
    full = {"command": "x", "settings": {"a": [1, 2]}, "runs": [run, run | {"seed": 1}]}
    text = as_json(full)
    found = json.loads(text)
    assert len(text.splitlines()) < 16
    assert found["settings"] == full["settings"]
    back = [with_history(r) for r in found["runs"]]
    assert [r["seed"] for r in back] == [0, 1]
    assert back[0]["area"] == run["area"]
    assert back[0]["history"] == [
        {"step": 0, "error": 0.33333, "loss": None},
        {"step": 5, "error": 6.6667e-08, "loss": None},
    ]
    assert json.loads(as_json({"command": "compare"})) == {"command": "compare"}


@pytest.mark.parametrize(
    ("experiment", "key"),
    [
        (Experiment(), "brain-seed3-2cf3188370b4c622"),
        (MediatedExperiment(), "brain-seed3-b49584172ad116bd"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_names_of_runs_stay(experiment: Settings, key: str) -> None:
    """Another name means that everybody's stored runs are done again.

    Where that is right (a new setting, a raised method version) the name here changes with it.
    """
    (job,) = jobs(experiment, ["brain"], [3], "data")
    assert job.key == key
