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
