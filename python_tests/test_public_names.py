"""Public names and their signatures are those of `public_names.txt`: nothing changes by accident.

A name is public if the `__all__` of one of the packages below has it. After an intended change run

    python python_tests/test_public_names.py

which writes the list anew, and say in CHANGELOG what users have to do. To freeze one more package
add its name here.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = (
    "b2m_fast.ops",
    "b2m_fast.ops.reference",
    "b2m_fast.nn",
    "b2m_fast.data",
    "b2m_fast.students",
    "b2m_fast.drop_in",
    "b2m_fast.teachers",
    "b2m_fast.methods",
    "b2m_fast",
)
FROZEN = Path(__file__).with_name("public_names.txt")


def annotated(text: str, annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return text
    annotation = getattr(annotation, "__forward_arg__", annotation)
    if not isinstance(annotation, str):
        annotation = inspect.formatannotation(annotation)
    return f"{text}: {annotation}"


def signature(function: Any) -> str:
    """Parameters with annotations and defaults, without the addresses that some reprs hold."""
    found = inspect.signature(function)
    parts: list[str] = []
    for name, parameter in found.parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not any(p.startswith("*") for p in parts):
            parts.append("*")
        stars = "*" * (parameter.kind is parameter.VAR_POSITIONAL)
        stars += "**" * (parameter.kind is parameter.VAR_KEYWORD)
        text = annotated(stars + name, parameter.annotation)
        if parameter.default is not parameter.empty:
            text += f" = {re.sub(r' at 0x[0-9a-f]+', '', repr(parameter.default))}"
        parts.append(text)
    result = annotated("", found.return_annotation).replace(": ", " -> ", 1)
    return f"({', '.join(parts)}){result}"


def described(name: str, thing: Any) -> Iterator[str]:
    """Lines for one public name: what it is, and the public members of a class."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        yield f"exception {name}"
    elif inspect.isclass(thing):
        yield f"class {name}{signature(thing)}"
        for member, value in sorted(vars(thing).items()):
            plain = getattr(value, "__func__", value)  # of a class or static method
            if member.startswith("_") and member != "__call__":
                continue
            if inspect.isfunction(plain):
                yield f"    {member}{signature(plain)}"
            elif isinstance(plain, property):
                getter: Any = plain.fget
                yield annotated(f"    {member}", inspect.signature(getter).return_annotation)
    elif inspect.ismodule(thing):
        yield f"module {name}"
    elif callable(thing):
        yield f"{name}{signature(thing)}"
    else:
        yield annotated(name, type(thing))


def public_names() -> str:
    """The text of the list."""
    lines: list[str] = []
    homes: dict[int, str] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines += ["", f"[{package}]"] if lines else [f"[{package}]"]
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            home = homes.setdefault(id(thing), f"{package}.{name}")
            if home != f"{package}.{name}" and not isinstance(thing, int | float | str | tuple):
                lines.append(f"{name} is {home}")
            else:
                lines += described(name, thing)
    return "\n".join(lines) + "\n"


def test_public_names_are_frozen() -> None:
    frozen, found = FROZEN.read_text(encoding="utf-8"), public_names()
    gone = sorted(set(frozen.splitlines()) - set(found.splitlines()))
    new = sorted(set(found.splitlines()) - set(frozen.splitlines()))
    assert found == frozen, (
        f"public names changed; if that is intended see {Path(__file__).name}\n"
        f"no longer there: {gone}\nnot in the list: {new}"
    )


if __name__ == "__main__":
    FROZEN.write_text(public_names(), encoding="utf-8")
