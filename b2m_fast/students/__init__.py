"""Networks that learn; each is registered in the file that defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from b2m_fast._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["student"]

student: Registry[Callable[..., Any]] = Registry("student", "student", "b2m_fast.students")
