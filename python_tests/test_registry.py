"""Registries: what is known without importing, what a name may be, what enters the hash of a run, and what is refused."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from b2m_fast._registry import Entry, Registry
from b2m_fast.students import student

MINE = '''
from __future__ import annotations
from b2m_fast.students import student

@student("mine", "a student of my own", kind="images")
class Mine:
    value = 1

def plain(classes, *, width: int = 3):
    """Make a student.

    More words."""
    return classes, width

nothing = None
'''
TOY = """
from pathlib import Path
from b2m_fast._registry import Registry

toy = Registry("toy", "toy", "toys", facts=("kind", "size", "things"))
"""
TOYS = {
    "cars": """
import heavy
from toys import toy

@toy("car", "drives", kind="fast", things=(heavy,))
def car(): ...

class Cars:
    @staticmethod
    @toy("bus", kind=("slow", "big"), size=3)
    def bus(): ...
""",
    "others": "raise RuntimeError('imported though nothing of it was asked for')  # toy(",
}


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package with a registry and three modules, one of which cannot be imported."""
    folder = tmp_path / "toys"
    folder.mkdir()
    for name, text in {"__init__": TOY, "heavy": "", **TOYS}.items():
        (folder / f"{name}.py").write_text(text)
    (tmp_path / "heavy.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("toys").toy
    for name in [n for n in sys.modules if n.partition(".")[0] in {"toys", "heavy"}]:
        del sys.modules[name]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test registers be forgotten after it."""
    monkeypatch.setattr(registry(), "_entries", dict(registry()._entries))


def registry() -> Registry[Any]:
    from b2m_fast.students import student

    return student


def make_distribution(
    folder: Path, name: str, version: str = "1.2", target: str = "plug:thing"
) -> None:
    """An installed distribution that offers the student "thing"."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[b2m_fast.student]\nthing = {target}\n")


# --------------------------------------------------------------------------------------------------
# Without importing
# --------------------------------------------------------------------------------------------------
def test_listing_imports_nothing() -> None:
    """Names, help lines and facts of all built-in ones are read without torch, numpy or the modules that define them."""
    code = (
        "import sys\n"
        "from b2m_fast.data import dataset, labels, task\n"
        "from b2m_fast.students import student\n"
        "found = [r.listings() for r in (dataset, task, labels, student)]\n"
        "assert all(found) and all(item.help and item.about['kind'] for r in found for item in r.values())\n"
        "ours = [m for m in sys.modules if m.startswith(('b2m_fast.data.', 'b2m_fast.students.'))]\n"
        "assert not ours, ours\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_facts_are_found_in_the_text(toys: Registry[Any]) -> None:
    """Literal facts are known before the import, others after it; a wanted fact fits one value of a tuple, or none stated."""
    found = toys.listings()
    assert {n: (item.help, item.source) for n, item in found.items()} == {
        "car": ("drives", "toys.cars"),
        "bus": ("", "toys.cars"),
    }
    assert dict(found["car"].about) == {"kind": "fast"}
    assert "toys.cars" not in sys.modules
    assert list(toys.listings(kind="big")) == ["bus"]
    assert list(toys.listings(kind="fast")) == ["car"]
    assert list(toys.listings(size=3)) == ["car", "bus"]
    entry = toys.get("car")
    assert entry.about["things"] == (sys.modules["heavy"],)
    assert toys.name_of(entry.make) == "car"


def test_two_of_one_name_are_refused(toys: Registry[Any], tmp_path: Path) -> None:
    """Two modules of a package cannot define the same name, nor can a user's module take a built-in's."""
    (tmp_path / "toys" / "more.py").write_text('@toy("car")\ndef other(): ...')
    with pytest.raises(ValueError, match=r"two toys 'car', in toys.cars and toys.more"):
        Registry("toy", "toy", "toys").listings()
    with pytest.raises(ValueError, match="another student is called 'gru': choose another name"):
        registry()("gru")(lambda: None)


def test_unknown_facts_are_refused(toys: Registry[Any]) -> None:
    """A misspelt fact is refused with those there are."""
    with pytest.raises(
        ValueError, match=r"@toy\('x'\): there is no sise; there are kind, size, things"
    ):
        toys("x", sise=1)
    with pytest.raises(ValueError, match="there is no module 'nowhere'"):
        Registry("toy", "toy", "nowhere").listings()


# --------------------------------------------------------------------------------------------------
# Names
# --------------------------------------------------------------------------------------------------
def test_every_kind_of_name(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in names, files, modules and entry points lead to what they name, decorated or not."""
    student = registry()
    assert student.get("gru").make.__name__ == "GRUStudent"
    own = student.get(f"{mine}:Mine")
    assert (own.name, own.help, own.about) == ("mine", "a student of my own", {"kind": "images"})
    assert student.get(f"{mine}:Mine").make is own.make
    assert student.get("mine") is own  # known by now
    plain = student.get(f"{mine}:plain")
    assert (plain.name, plain.help) == (f"{mine}:plain", "Make a student.")
    assert student.get("torch.nn:GRU").make.__name__ == "GRU"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plug.py").write_text("def thing(): ...")
    make_distribution(tmp_path, "plugin")
    assert student.listings()["thing"].help == "from plugin"
    assert student.get("thing").make.__name__ == "thing"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nothing",
            r"no student 'nothing'; there are rnn, gru, resnet, vae; .*FILE\.py:NAME or PACKAGE",
        ),
        ("/nowhere/a.py:x", "there is no file /nowhere/a.py"),
        ("no.where:x", "there is no module 'no.where'; a file is named FILE.py:NAME"),
        ("{mine}:Yours", r"there is no 'Yours' in .*mine\.py"),
        ("math:tau2", "there is no 'tau2' in"),
    ],
)
def test_unknown_names(name: str, message: str, mine: Path) -> None:
    """What is not there is named, and where to look for it."""
    with pytest.raises(ValueError, match=message):
        registry().get(name.format(mine=mine))


def test_two_distributions_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two distributions offer a name, neither is taken by chance; a built-in's name stays the built-in's."""
    monkeypatch.syspath_prepend(str(tmp_path))
    make_distribution(tmp_path, "one")
    make_distribution(tmp_path, "two", target="torch.nn:GRU")
    with pytest.raises(
        ValueError, match=r"2 installed distributions offer.*plug:thing, torch.nn:GRU"
    ):
        registry().get("thing")


def test_name_of_what_is_not_registered() -> None:
    """A thing without a name is refused."""
    with pytest.raises(ValueError, match="is not registered as a student"):
        registry().name_of(print)


# --------------------------------------------------------------------------------------------------
# The hash of a run, and other processes
# --------------------------------------------------------------------------------------------------
def test_sources(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content of a file and version of a distribution are what they are known by; built-in ones have no source."""
    student, name = registry(), f"{mine}:plain"
    assert student.source("gru") == {}
    assert student.source(name) == {name: hashlib.sha256(MINE.encode()).hexdigest()}
    before = student.get(name).make
    mine.write_text(MINE.replace("= 3", "= 4"))
    assert student.source(name) != {name: hashlib.sha256(MINE.encode()).hexdigest()}
    assert student.get(name).make is not before  # loaded again
    assert student.get(name).options() == {"width": 4}
    assert len(student.source("math:tau")["math:tau"]) == 64
    monkeypatch.syspath_prepend(str(tmp_path))
    make_distribution(tmp_path, "plugin")
    assert student.source("thing") == {"thing": "plugin 1.2"}
    with pytest.raises(ValueError, match="there is no student 'nothing'"):
        student.source("nothing")


def in_a_child(name: str, data: bytes) -> int:
    """Load a user's file, then take an object of its class."""
    entry = registry().get(name)
    made = pickle.loads(data)
    assert isinstance(made, entry.make)
    return int(made.value)


def test_a_file_that_changes_back_is_known_by_its_name(tmp_path: Path) -> None:
    """Each content of a file has its own object; the name is that of the decorator every time."""
    file = tmp_path / "changing.py"
    found = []
    for value in (1, 2, 1, 2):
        file.write_text(
            MINE.replace("value = 1", f"value = {value}").replace('"mine"', '"changing"')
        )
        entry: Any = student.get(f"{file}:Mine")
        found.append((entry.name, entry.make.value, student.get("changing").make is entry.make))
    assert found == [("changing", value, True) for value in (1, 2, 1, 2)]


def test_objects_of_a_users_file_go_to_other_processes(mine: Path) -> None:
    """What a user's class has made can be sent to a process that has called `get`."""
    name = f"{mine}:Mine"
    made = registry().get(name).make()
    made.value = 7
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(in_a_child, (name, pickle.dumps(made))) == 7


def test_a_broken_file_is_not_kept(tmp_path: Path) -> None:
    """A file that raises is loaded again when it is mended."""
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            registry().get(f"{path}:x")
    path.write_text("x = print")
    assert registry().get(f"{path}:x").make is print


# --------------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------------
def make(
    classes: int,
    channels: int = 1,
    *,
    width: int = 4,
    rate: float = 1,
    name: str = "a",
    deep: bool = False,
    sizes: tuple[int, ...] = (1, 2),
    limit: float | None = None,
) -> tuple[Any, ...]:
    return classes, channels, width, rate, name, deep, sizes, limit


def test_options_have_types() -> None:
    """Options are keyword-only arguments; numbers are taken where they mean the same."""
    entry = Entry("thing", "", {}, make)
    assert list(entry.options()) == ["width", "rate", "name", "deep", "sizes", "limit"]
    found = entry.options({"width": 8.0, "rate": 2, "sizes": [3], "limit": 5})
    assert [found[n] for n in ("width", "rate", "sizes", "limit")] == [8, 2.0, (3,), 5]
    assert type(found["width"]) is int
    assert type(found["rate"]) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widht": 8}, "thing has no option widht; it has width, rate"),
        ({"classes": 8}, "thing has no option classes"),
        ({"width": 8.5}, r"the option width of thing must be int, got 8\.5"),
        ({"width": True}, "must be int, got True"),
        ({"rate": "fast"}, "must be float, got 'fast'"),
        ({"deep": 1}, "must be bool, got 1"),
        ({"name": 1}, "must be str, got 1"),
    ],
)
def test_wrong_options_are_named(given: dict[str, Any], message: str) -> None:
    """An option that there is not, or of another type, is refused before anything is made."""
    with pytest.raises(ValueError, match=message):
        Entry("thing", "", {}, make).options(given)


def test_build_gives_what_is_asked_for() -> None:
    """Of the context an argument is given where there is one for it; what lacks is named."""
    entry = Entry("thing", "", {}, make)
    assert entry.build({"width": 2}, classes=3, size=9)[:3] == (3, 1, 2)
    with pytest.raises(
        ValueError, match="thing has the argument classes; what it is called with is size"
    ):
        entry.build(size=9)
    with pytest.raises(ValueError, match="thing needs the option width"):
        Entry[Any]("thing", "", {}, lambda *, width: width).build()
    assert Entry[Any]("task", "", {}, lambda: ModuleType("x")).build(root=None).__name__ == "x"
