"""The house stays in order.

Imports point one way, the C++ core knows neither Python nor torch, and the instruction levels do
not leak into the code that every machine runs. Everything is checked on the sources of the
repository, not on the installed package.
"""

from __future__ import annotations

import ast
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2m_fast import _C

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "b2m_fast"
CSRC = ROOT / "csrc"
NAME = "b2m_fast"

# A module may import from its own level and from lower ones.
# "" is the package itself: what users get from `import b2m_fast`.
LEVELS = {
    "cli": 8,
    "__main__": 8,
    "experiments": 7,
    "methods": 6,
    "teachers": 5,
    "encoding": 4,
    "students": 3,
    "data": 3,
    "evaluate": 3,
    "": 2,
    "nn": 1,
    "_bench": 1,
    "drop_in": 1,
    "ops": 0,
    "_info": 0,
    "_lazy": -1,
    "_registry": -1,
    "_C": -1,
}
COMPILED_FROM = {"ops", "_info"}


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name below the package: `b2m_fast/ops/core.py` is "ops.core", the package itself is ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir() or name == "_C"


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names of everything a file imports, wherever in the file it does so."""
    parts = [NAME, *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{start}.{base}" if base else start
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, as names below the package."""
    found = set()
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top != NAME:
            continue
        while rest and not is_module(rest):
            rest = rest.rpartition(".")[0]
        found.add(rest)
    return found


def first(module: str) -> str:
    return module.partition(".")[0]


# --------------------------------------------------------------------------------------------------
# Python
# --------------------------------------------------------------------------------------------------
def test_every_module_has_a_place() -> None:
    strangers = {first(module_name(path)) for path in python_files()} - set(LEVELS)
    assert not strangers, (
        f"give {sorted(strangers)} a level in LEVELS, and say in DESIGN.md what lives there"
    )


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    here = first(module_name(path))
    for module in own_imports(path):
        there = first(module)
        assert LEVELS[there] <= LEVELS[here], (
            f"{path.relative_to(ROOT)} imports {NAME}.{module}, which lies above it"
        )
        if there == "_C":
            assert here in COMPILED_FROM, (
                f"{path.relative_to(ROOT)} imports _C; go through {NAME}.ops"
            )


def test_neighbours_do_not_import_each_other_in_circles() -> None:
    edges: dict[str, set[str]] = {name: set() for name in LEVELS}
    for path in python_files():
        here = first(module_name(path))
        edges[here] |= {first(module) for module in own_imports(path)} - {here}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, "circle of imports: " + " -> ".join((*trail, node))
        if node not in done:
            for target in sorted(edges[node]):
                visit(target, (*trail, node))
            done.add(node)

    for name in LEVELS:
        visit(name, ())


def test_references_import_nothing_compiled() -> None:
    references = [path for path in python_files() if module_name(path).startswith("ops.reference")]
    assert references
    allowed = sys.stdlib_module_names - {"ctypes", "importlib"} | {"numpy", "torch"}
    for path in references:
        for name in imports(path):
            if name.partition(".")[0] == NAME:
                assert name.startswith(f"{NAME}.ops.reference"), f"{path.name} imports {name}"
            else:
                assert name.partition(".")[0] in allowed, f"{path.name} imports {name}"


def uses_of(path: Path, wanted: str) -> bool:
    """Whether code (not text) of a file spells the attribute or the module `wanted`, as in `torch.library`."""
    head, _, tail = wanted.rpartition(".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Attribute) and node.attr == tail:
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if head in {"", owner}:
                return True
    return any(f"{name}.".startswith(f"{wanted}.") for name in imports(path) if head)


@pytest.mark.parametrize("wanted", ["data_ptr", "torch.library"])
def test_the_edge_to_torch_is_one_file(wanted: str) -> None:
    users = [str(path.relative_to(ROOT)) for path in python_files() if uses_of(path, wanted)]
    assert len(users) == 1, f"{wanted} is used in {users}"
    assert users[0].startswith("b2m_fast/ops/")


# --------------------------------------------------------------------------------------------------
# C++ sources and build files
# --------------------------------------------------------------------------------------------------
def cpp_files() -> list[Path]:
    suffixes = {".h", ".hpp", ".cpp", ".cu", ".cuh"}
    return sorted(path for path in CSRC.rglob("*") if path.suffix in suffixes)


def cpp_folder(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


# Which of our folders a folder may include from; "b2m" is include/b2m.
CPP_MAY_INCLUDE = {
    "include": {"b2m"},
    "pair": {"b2m", "pair"},
    "cpu": {"b2m", "pair", "cpu"},
    "cuda": {"b2m", "pair", "cuda"},
    "bindings": {"b2m", "cpu", "bindings"},
    "tests": {"b2m", "pair", "cpu", "cuda", "tests"},
}


@pytest.mark.parametrize("path", cpp_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_cpp_includes(path: Path) -> None:
    folder = cpp_folder(path)
    include = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
    for name in include.findall(path.read_text(encoding="utf-8")):
        top = name.partition("/")[0]
        assert not re.match(r"(torch|ATen|c10|numpy)\b", name), f"{path.name} includes {name}"
        if folder not in {"cuda", "tests"}:
            assert not re.match(r"cuda(_\w+)?\.h", name), f"{path.name} includes {name}"
        if folder != "bindings":
            assert not re.match(r"(Python\.h|pybind11)", name), f"{path.name} includes {name}"
        if folder == "cuda" and name.startswith("tests/cuda_emulation/"):
            continue  # instructions on the host, for tests
        if top in {"b2m", "pair", "cpu", "cuda", "bindings", "tests"}:
            assert top in CPP_MAY_INCLUDE[folder], f"csrc/{folder}/{path.name} includes {name}"


BUILD_FILES = ["CMakeLists.txt", "CMakePresets.json", "Makefile", "pyproject.toml"]


@pytest.mark.parametrize("name", BUILD_FILES)
def test_build_files_keep_nan_and_run_anywhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for flag in ("-ffast-math", "-Ofast", "-ffinite-math-only", "-march=native", "-mcpu=native"):
        assert flag not in text, f"{name} uses {flag}"


# --------------------------------------------------------------------------------------------------
# Objects
# --------------------------------------------------------------------------------------------------
def tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def output(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The objects of the CPU engine, brought up to date by the build that ships them."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    cmake, folder = tool("cmake"), ROOT / "build" / "release"
    if not (folder / "build.ninja").is_file():
        folder = tmp_path_factory.mktemp("objects")
        ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
        output(cmake, "-G", "Ninja", ninja, "-DB2M_BUILD_PYTHON=OFF", "-S", ROOT, "-B", folder)
    output(cmake, "--build", folder, "--target", "b2m_cpu")
    built = folder.glob("CMakeFiles/b2m_cpu.dir/csrc/cpu/*.cpp.o")
    return {path.name.partition(".")[0]: path for path in built}


def test_every_level_of_the_tree_is_compiled_here(objects: dict[str, Path]) -> None:
    sources = {path.stem for path in CSRC.glob("cpu/*.cpp")}
    assert "isa_generic" in objects
    assert set(objects) <= sources
    assert {name for name in sources if not name.startswith("isa_")} <= set(objects)


def test_levels_share_no_weak_symbol(objects: dict[str, Path]) -> None:
    """The linker keeps one copy of a weak symbol for all: one with AVX-512 would crash elsewhere."""
    nm = tool("nm")
    for name, path in objects.items():
        if name.startswith("isa_"):
            symbols = [line.split(maxsplit=2)[-2:] for line in output(nm, "-C", path).splitlines()]
            # The address of the exception personality is data, the same in every object.
            weak = [s for kind, s in symbols if kind in "VvWwu" and not s.startswith("DW.ref.")]
            assert not weak, f"{path.name}: {weak}"


def test_levels_run_no_code_at_load_time(objects: dict[str, Path]) -> None:
    """A constructor of a namespace-scope constant runs before any choice of level."""
    readelf = tool("readelf")
    for name, path in objects.items():
        if name.startswith("isa_"):
            sections = output(readelf, "-SW", path)
            assert not re.search(r"\.(init_array|ctors|preinit_array)", sections), path.name


def test_baseline_holds_no_vector_extension(objects: dict[str, Path]) -> None:
    if platform.machine() not in {"x86_64", "AMD64"}:
        pytest.skip(f"registers of x86-64 are looked for; this is {platform.machine()}")
    objdump = tool("objdump")
    beyond = re.compile(r"%[yz]mm\d|%k[1-7]\b|\tv\w+\s.*%xmm")
    for name, path in objects.items():
        if name == "isa_generic" or not name.startswith("isa_"):
            lines = output(objdump, "-d", "--no-show-raw-insn", path).splitlines()
            found = [line for line in lines if beyond.search(line)]
            assert not found, f"{path.name}: {found[:3]}"


# --------------------------------------------------------------------------------------------------
# The stub of the extension
# --------------------------------------------------------------------------------------------------
def declared(body: list[ast.stmt], first_argument: int) -> tuple[set[str], dict[str, int]]:
    """Constants of a part of the stub, and its functions with their numbers of arguments."""
    arguments = {
        node.name: len(node.args.posonlyargs) - first_argument
        for node in body
        if isinstance(node, ast.FunctionDef)
    }
    names = {
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return {name for name in names if not name.startswith("_")}, arguments


def exported(module: object) -> tuple[set[str], dict[str, int]]:
    """The same of what is there."""
    public = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    functions = {name: value for name, value in public.items() if callable(value)}
    return set(public) - set(functions), {
        name: len(re.findall(r"\barg\d+:", value.__doc__.splitlines()[0]))
        for name, value in functions.items()
    }


def test_stub_lists_what_the_extension_has() -> None:
    body = ast.parse((PACKAGE / "_C.pyi").read_text(encoding="utf-8")).body
    constants, functions = declared(body, 0)
    if not hasattr(_C, "cuda"):
        constants.remove("cuda")
    assert (constants, functions) == exported(_C)


def test_stub_lists_the_kernels() -> None:
    if not hasattr(_C, "cuda"):
        pytest.skip("this build has no kernels")
    body = ast.parse((PACKAGE / "_C.pyi").read_text(encoding="utf-8")).body
    kernels = next(x for x in body if isinstance(x, ast.ClassDef) and x.name == "_Kernels")
    assert declared(kernels.body, 1) == exported(_C.cuda)
