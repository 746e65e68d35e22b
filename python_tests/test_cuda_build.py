"""What can be known of the CUDA kernels without a GPU: that they are there, and what they are made of.

The installed extension is taken apart with NVIDIA's own tools (from PyPI, or of a toolkit). What the
compiler said is read from the logs that `.ci/keep_log` leaves beside the objects.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from b2m_fast import _C

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = Path(str(_C.__file__))
BUILT = _C.build_info()["cuda"]
IN_CI = "CI" in os.environ

# Everything below runs on a machine without a driver; tools of the toolkit live here.
TOOLS = os.pathsep.join(
    [
        str(Path(sys.executable).parent),
        str(Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"),
        os.environ.get("PATH", ""),
        "/usr/local/cuda/bin",
    ]
)


def tool(name: str) -> str:
    found = shutil.which(name, path=TOOLS)
    if found is None:
        absent(f"{name} is not installed")
    assert found is not None
    return found


def absent(reason: str) -> None:
    """Skip; but where CI can compile kernels, nothing may be missing."""
    if IN_CI and shutil.which("nvcc"):
        pytest.fail(f"CI has nvcc, but {reason}")
    pytest.skip(reason)


def output(*command: str | Path) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": TOOLS}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module", name="with_kernels")
def _with_kernels() -> None:
    if BUILT == "emulated":
        pytest.skip("an emulated build has no machine code of a GPU")
    if BUILT == "no":
        absent(f"this build has no CUDA kernels (CUDA: {BUILT})")


# --------------------------------------------------------------------------------------------------
# The extension
# --------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("with_kernels")
def test_build_info_names_the_architectures() -> None:
    assert re.fullmatch(r"\d+a?( \d+a?)*", BUILT)
    assert "90a" in BUILT.split()


@pytest.mark.usefixtures("with_kernels")
def test_runtime_is_inside_and_driver_is_not_needed() -> None:
    """No libcudart, no libcuda: the module loads on any machine (this test's own import proves it)."""
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output(tool("readelf"), "-d", EXTENSION))
    assert needed
    assert not [name for name in needed if "cuda" in name or "nv" in name]


@pytest.mark.usefixtures("with_kernels")
def test_runtime_symbols_stay_inside() -> None:
    """Another copy of the runtime in the process (torch's) must not meet ours."""
    symbols = output(tool("nm"), "-D", "--defined-only", EXTENSION).split()
    assert "PyInit__C" in symbols
    assert not [name for name in symbols if name.startswith(("cuda", "__cuda"))]


@pytest.mark.usefixtures("with_kernels")
def test_every_architecture_is_there() -> None:
    machine_code = set(
        re.findall(r"\.(sm_\w+)\.cubin", output(tool("cuobjdump"), "-lelf", EXTENSION))
    )
    assert machine_code == {f"sm_{name}" for name in BUILT.split()}
    newer = set(re.findall(r"\.(sm_\w+)\.ptx", output(tool("cuobjdump"), "-lptx", EXTENSION)))
    assert newer == {"sm_90"}, "PTX of the kernels for every device, for devices to come"


# --------------------------------------------------------------------------------------------------
# Machine code
# --------------------------------------------------------------------------------------------------
INSTRUCTIONS = ("HGMMA", "HMMA", "UTMALDG", "LDGSTS")


class Kernel:
    """A kernel for one architecture, and how often it uses an instruction."""

    def __init__(self, name: str, architecture: str) -> None:
        self.name = name
        self.architecture = architecture
        self.count: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"{self.name} (sm_{self.architecture}) {dict(self.count)}"

    @property
    def hopper(self) -> bool:
        return "hopper_kernel" in self.name

    @property
    def ampere(self) -> bool:
        return "AmpereLoop" in self.name

    @property
    def double(self) -> bool:
        return "ScalarLoopIdE" in self.name


@pytest.fixture(scope="module")
def kernels(with_kernels: None) -> list[Kernel]:
    tool("nvdisasm")
    found: list[Kernel] = []
    wanted = re.compile(r"\b(" + "|".join(INSTRUCTIONS) + r")\b")
    architecture = ""
    for line in output(tool("cuobjdump"), "-sass", EXTENSION).splitlines():
        if line.startswith("arch = sm_"):
            architecture = line.removeprefix("arch = sm_")
        elif "Function : " in line:
            found.append(Kernel(line.rpartition(" ")[2], architecture))
        elif found and (instruction := wanted.search(line)):
            found[-1].count[instruction.group()] += 1
    return found


def test_every_source_is_in_the_machine_code(kernels: list[Kernel]) -> None:
    assert {kernel.architecture for kernel in kernels} == set(BUILT.split())
    assert any(kernel.hopper for kernel in kernels)
    assert any(kernel.ampere for kernel in kernels)


def test_hopper_kernels_use_hopper(kernels: list[Kernel]) -> None:
    """Products of warpgroups, fed by the copy engine."""
    ours = [kernel for kernel in kernels if kernel.architecture == "90a"]
    assert ours
    assert all(kernel.hopper for kernel in ours), "other kernels are compiled for all devices"
    without = [k for k in ours if not k.count["HGMMA"] or not k.count["UTMALDG"]]
    assert not without, without


def test_portable_kernels_use_tensor_cores(kernels: list[Kernel]) -> None:
    ours = [kernel for kernel in kernels if kernel.ampere]
    without = [k for k in ours if not k.count["HMMA"] or not k.count["LDGSTS"]]
    assert not without, without


@pytest.mark.usefixtures("with_kernels")
def test_kernels_keep_to_registers() -> None:
    """Hardly a spill, no arrays in local memory.

    float64 is there for checking, not for speed: it may. So may, on the portable loops, kernels that
    hold the tiles of two sides: 128 values a thread leave no room (docs/performance-gpu.md says so).
    """
    architecture, local = "", []
    said = output(tool("cuobjdump"), "-res-usage", EXTENSION)
    assert "STACK:0" in said
    for line in said.splitlines():
        if line.startswith("arch = sm_"):
            architecture = line.removeprefix("arch = sm_")
        elif " Function " in line:
            kernel = Kernel(line.split()[1].rstrip(":"), architecture)
        else:
            bytes_used = re.search(r"STACK:(\d+) .*LOCAL:(\d+)", line)
            assert not bytes_used or bytes_used.group(2) == "0", "an array in local memory"
            two_sided = (
                re.search(r"DifferenceOfPairs|Moments|LinearW", kernel.name) if bytes_used else None
            )
            allowed = 1536 if two_sided and not kernel.hopper else 16
            if bytes_used and int(bytes_used.group(1)) > allowed and not kernel.double:
                local.append((kernel, bytes_used.group(1)))
    assert not local, local


# --------------------------------------------------------------------------------------------------
# The compiler
# --------------------------------------------------------------------------------------------------
def logs() -> list[Path]:
    """What nvcc said of each file: from the build of this installation, or of `cmake --preset cuda`."""
    folders = [*(ROOT / "build").glob("cp3*"), ROOT / "build" / "cuda", ROOT / "build" / "gpu"]
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.rglob("*.cu.o.log"):
            other = found.get(path.name)
            if other is None or other.stat().st_mtime < path.stat().st_mtime:
                found[path.name] = path
    return [*found.values()]


@pytest.mark.usefixtures("with_kernels")
def test_compiler_serialised_nothing() -> None:
    """C7508, C7510, C7511: products of warpgroups made to wait for each other, registers not moved."""
    found = logs()
    if not found:
        absent("no log of the compiler is kept (CMAKE_CUDA_COMPILER_LAUNCHER=.ci/keep_log)")
    sources = {f"{path.name}.o.log" for path in (ROOT / "csrc" / "cuda").glob("*.cu")}
    assert sources <= {path.name for path in found}
    for path in found:
        warnings = re.findall(r".*C75\d\d.*", path.read_text(encoding="utf-8", errors="replace"))
        assert not warnings, f"{path}: {warnings}"


def test_smoke_program_compiles(tmp_path: Path) -> None:
    """CI has no device to run it on; the emulated build runs it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]
    source = ROOT / "csrc" / "tests" / "cuda_smoke.cu"
    flags = ["-std=c++17", "-O0", "-arch=sm_80", "-Werror=all-warnings", *includes]
    output(nvcc, *flags, "-c", source, "-o", tmp_path / "smoke.o")


# --------------------------------------------------------------------------------------------------
# Options of the build
# --------------------------------------------------------------------------------------------------
def configure(folder: Path, *options: str, without_nvcc: bool = False) -> tuple[int, str]:
    environment = {**os.environ, "PATH": TOOLS}
    if without_nvcc:
        environment["PATH"] = str(folder / "tools")
        environment.pop("CUDACXX", None)
        (folder / "tools").mkdir()
        for name in ("c++", "cc", "ar", "ranlib", "ld", "as", "nm", "ninja"):
            (folder / "tools" / name).symlink_to(tool(name))
    command = [tool("cmake"), "-G", "Ninja", "-DB2M_BUILD_PYTHON=OFF", *options]
    command += ["-S", str(ROOT), "-B", str(folder / "build")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_unknown_choice_is_an_error(tmp_path: Path) -> None:
    code, said = configure(tmp_path, "-DB2M_CUDA=YES")
    assert code != 0
    assert "expected AUTO, ON, OFF or EMULATED" in said


def test_on_without_nvcc_is_an_error_and_auto_is_not(tmp_path: Path) -> None:
    code, said = configure(tmp_path, "-DB2M_CUDA=ON", without_nvcc=True)
    assert code != 0
    assert "no working nvcc" in said
    shutil.rmtree(tmp_path / "tools")
    shutil.rmtree(tmp_path / "build")
    code, said = configure(tmp_path, "-DB2M_CUDA=AUTO", without_nvcc=True)
    assert code == 0, said
    assert "CUDA no" in said
