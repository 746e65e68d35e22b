"""Named things of one kind (data sets, tasks, students, arms): one decorator is the door for ours and for anyone's own.

    dataset = Registry("dataset", "data set", "b2m_fast.data")

    @dataset("my-brain", "what --help says of it", kind="images")
    def my_brain(root): ...

Wherever a built-in's name fits, so does ``path/file.py:name``, ``package.module:name``, and a name that an installed
distribution offers in the entry-point group ``b2m_fast.dataset``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

__all__ = ["Entry", "Listing", "Registry"]

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """What can be known of a registered thing without importing it."""

    name: str
    help: str
    about: Mapping[str, Any]
    source: str  # a module, or the distribution that offers it


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered thing."""

    name: str
    help: str
    about: Mapping[str, Any]
    make: T


class Registry(Generic[T]):
    """Things of one kind by name; the registry is itself the decorator that registers one.

    Parameters
    ----------
    decorator : str
        The name under which the registry is used as a decorator, and the last part of the entry-point group.
    kind : str
        What is registered, as messages call it: ``"data set"``.
    package : str
        The module, or package of modules, in which the built-in ones are defined.
    group : str, optional
        Entry-point group, where it is not ``b2m_fast.DECORATOR``.
    """

    def __init__(self, decorator: str, kind: str, package: str, *, group: str = "") -> None:
        self.decorator, self.kind, self.package = decorator, kind, package
        self.group = group or f"b2m_fast.{decorator}"
        self._entries: dict[str, Entry[T]] = {}

    def __call__(self, name: str, help: str = "", /, **about: Any) -> Callable[[T], T]:  # noqa: A002
        """Register what is decorated; name, help and facts must be literals, for they are also read as text.

        Raises
        ------
        ValueError
            If the name is taken by something else.
        """

        def register(made: T) -> T:
            entry = Entry(name, help, about, made)
            known = self._entries.get(name)
            if known is not None and _origin(known.make) != _origin(made):
                raise ValueError(f"another {self.kind} is called {name!r}: choose another name")
            self._entries[name] = entry
            return made

        return register

    # ----------------------------------------------------------------------------------------------
    # Without importing anything
    # ----------------------------------------------------------------------------------------------
    def listings(self, **wanted: Any) -> dict[str, Listing]:
        """Return the built-in and installed ones by name; `wanted` keeps those with these facts."""
        found = {listing.name: listing for listing in self._built_in()}
        for point in metadata.entry_points(group=self.group):
            distribution = point.dist.name if point.dist else point.value
            found.setdefault(
                point.name, Listing(point.name, f"from {distribution}", {}, distribution)
            )
        return {
            name: listing
            for name, listing in found.items()
            if all(listing.about.get(key, value) == value for key, value in wanted.items())
        }

    def _built_in(self) -> Iterator[Listing]:
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ImportError(f"there is no module {self.package}")
        origin = Path(spec.origin)
        paths = sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
        for path in paths:
            module = self.package if path == origin else f"{self.package}.{path.stem}"
            text = path.read_text(encoding="utf-8")
            if f"@{self.decorator}(" in text:
                for node in ast.walk(ast.parse(text)):
                    for call in getattr(node, "decorator_list", []):
                        if isinstance(call, ast.Call) and _name(call.func) == self.decorator:
                            name, *rest = map(ast.literal_eval, call.args)
                            facts = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
                            yield Listing(name, rest[0] if rest else "", facts, module)

    def source(self, name: str) -> dict[str, str]:
        """Return what enters the hash of a run for a name: nothing for a built-in, else what it is made of.

        The SHA-256 of the file for ``file.py:name`` and ``package.module:name``; name and version of the distribution for
        an entry point.
        """
        if name in self._built_in_names():
            return {}
        file = _file(name)
        if file is not None:
            return {name: hashlib.sha256(file.read_bytes()).hexdigest()}
        for point in metadata.entry_points(group=self.group, name=name):
            if point.dist is not None:
                return {name: f"{point.dist.name} {point.dist.version}"}
        raise self._unknown(name)

    def _built_in_names(self) -> set[str]:
        return {listing.name for listing in self._built_in()}

    # ----------------------------------------------------------------------------------------------
    # Importing
    # ----------------------------------------------------------------------------------------------
    def get(self, name: str) -> Entry[T]:
        """Return what a name stands for, importing the module that defines it.

        Raises
        ------
        ValueError
            If there is nothing of that name; the message lists what there is, and how to name one's own.
        """
        listing = next((item for item in self._built_in() if item.name == name), None)
        if listing is not None:
            importlib.import_module(listing.source)
            return self._entries[name]
        if name in self._entries:  # registered by a user's module that was imported before
            return self._entries[name]
        if _file(name) is not None:
            return self._own(getattr(*_target(name), None), name)
        for point in metadata.entry_points(group=self.group, name=name):
            return self._own(point.load(), name)
        raise self._unknown(name)

    def _own(self, made: Any, name: str) -> Entry[T]:
        """Return the entry of a user's object, decorated or not."""
        if made is None:
            raise ValueError(f"{name}: there is no {name.rpartition(':')[2]!r} in that file")
        for entry in self._entries.values():
            if entry.make is made:
                return entry
        lines = (getattr(made, "__doc__", None) or "").strip().splitlines()
        return Entry(name, lines[0] if lines else "", {}, cast("T", made))

    def _unknown(self, name: str) -> ValueError:
        return ValueError(
            f"there is no {self.kind} {name!r}; there are {', '.join(self.listings())}; one of your own is "
            "named FILE.py:NAME or PACKAGE.MODULE:NAME"
        )


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _origin(made: object) -> tuple[object, object]:
    """Return what stays the same when a module is loaded again, changed or not."""
    module = sys.modules.get(getattr(made, "__module__", ""))
    return getattr(module, "__file__", id(made)), getattr(made, "__qualname__", id(made))


def _file(name: str) -> Path | None:
    """Return the file that ``file.py:name`` or ``package.module:name`` names; None for another kind of name."""
    where, colon, _ = name.rpartition(":")
    if not colon:
        return None
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise ValueError(f"{name}: there is no file {path}")
        return path.resolve()
    try:
        spec = importlib.util.find_spec(where)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ValueError(f"{name}: there is no module {where!r}; a file is named FILE.py:NAME")
    return Path(spec.origin)


def _target(name: str) -> tuple[ModuleType, str]:
    """Return the module of ``file.py:name`` or ``package.module:name``, and the name in it."""
    where, _, attribute = name.rpartition(":")
    if not where.endswith(".py"):
        return importlib.import_module(where), attribute
    path = cast("Path", _file(name))
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    module = f"_b2m_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    known = sys.modules.get(module)
    if known is None or known.__dict__["_b2m_content"] != content:
        spec = importlib.util.spec_from_file_location(module, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded as Python")
        loaded = importlib.util.module_from_spec(spec)
        loaded.__dict__["_b2m_content"] = content
        sys.modules[module] = loaded  # so that what it defines can be pickled
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[module]
            raise
    return sys.modules[module], attribute
