"""Experiments around the methods: arms, settings, runs, reports; nothing below imports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from b2m_fast._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["experiment"]

experiment: Registry[Callable[[], Any]] = Registry(
    "experiment", "experiment", "b2m_fast.experiments"
)
