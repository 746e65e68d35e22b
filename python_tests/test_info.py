"""The report of an installation: complete, plain strings, and without side effects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from b2m_fast import _C, _info


def test_every_fact_is_a_plain_string() -> None:
    info = _info.collect()
    assert set(info) == {"versions", "cpu", "precision", "cuda"}
    assert json.loads(json.dumps(info)) == info
    for facts in info.values():
        assert facts
        for name, value in facts.items():
            assert isinstance(value, str), name
            assert value, name


def test_versions_are_those_running() -> None:
    versions = _info.collect()["versions"]
    assert versions["torch"] == torch.__version__
    assert versions["numpy"] == np.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["compiler"] == _C.build_info()["compiler"]


def test_chosen_level_is_available_and_available_levels_are_compiled() -> None:
    compiled, available = _C.isa_compiled(), _C.isa_available()
    assert compiled[0] == "generic"
    assert set(available) <= set(compiled)
    assert _C.isa_chosen() in available
    assert _info.collect()["cpu"]["level chosen"] == _C.isa_chosen()


def test_level_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in _C.isa_available():
        monkeypatch.setenv("B2M_ISA", level)
        assert _info.collect()["cpu"]["level chosen"] == level


def test_threads_are_those_of_torch() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert _info.collect()["cpu"]["threads"] == "1"
    finally:
        torch.set_num_threads(before)


def test_precision_follows_torch() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert _info.collect()["precision"]["float32 matmul"] == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_asking_does_not_initialise_cuda(tmp_path: Path) -> None:
    code = (
        "import torch; from b2m_fast import _info; _info.collect(); "
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_driver_and_devices_are_read_from_the_kernel(tmp_path: Path) -> None:
    gpu = tmp_path / "gpus" / "0000:01:00.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 42\n")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    )
    assert _info._cuda_driver(tmp_path) == "580.65.06"
    assert _info._cuda_devices(tmp_path) == ["NVIDIA H100 80GB HBM3"]


def test_no_driver_is_said_plainly(tmp_path: Path) -> None:
    assert _info._cuda_driver(tmp_path) == "none found"
    assert _info._cuda_devices(tmp_path) == []
    (tmp_path / "version").write_text("something else\n")
    assert _info._cuda_driver(tmp_path) == "unknown"


def test_rendered_lines_are_aligned() -> None:
    text = _info.render({"cpu": {"a": "1", "long name": "2"}, "cuda": {"b": "no"}})
    assert text.splitlines() == [
        "cpu",
        "  a          1",
        "  long name  2",
        "cuda",
        "  b          no",
    ]
    assert _info.render({}) == ""
