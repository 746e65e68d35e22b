"""Recordings, stimuli and tasks; each data set and task is registered in the file that defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from b2m_fast._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["dataset", "task"]

dataset: Registry[Callable[..., Any]] = Registry("dataset", "data set", "b2m_fast.data")
task: Registry[Callable[..., Any]] = Registry("task", "task", "b2m_fast.data")
