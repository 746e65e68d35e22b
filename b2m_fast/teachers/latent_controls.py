"""Latent teachers that hold no brain, or a broken one: what a claim for the brain must beat.

Each says what it keeps of the brain's latents and what it destroys. All of them but the label's and
the network's are functions of the brain's teacher, so that they have its rank, scale and steps. All
of them still tell conditions apart, and the same way in every trial: consistency is no privilege of
the brain, and `label_teacher`, which has nothing else to give, is the decisive arm.

None of them knows more than the brain did. Conditions of the task that share a recorded condition
share the control's latents too; and where the task's inputs cannot tell conditions apart yet
(`LatentTeacher.history`), the control's latents are averaged over these before they are z-scored.
Without that, a control would ask for the future, and lose against the brain for that alone. What is
said below to be kept exactly is so at steps at which all conditions are known; before that, only of
the part that can be known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data.files import DataError
from b2m_fast.teachers.histories import (
    cycle,
    history_means,
    merged_history,
    permuted_branches,
)
from b2m_fast.teachers.latents import LatentTeacher, on_clock

__all__ = [
    "gaussian_process",
    "label_teacher",
    "network_teacher",
    "phase_randomized",
    "relabelled",
    "time_reversed",
]

Array = NDArray[np.float64]


def relabelled(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """Recorded conditions dealt out anew, none keeping its own latents.

    Keeps every value, the time course, smoothness and rank, and the geometry among conditions.
    Destroys which condition is which, and so the likeness of conditions that are alike in the task.
    Conditions that part at some step change places with their like only, so that what they had in
    common before they still have (`permuted_branches`; ``branches_kept`` in the report says whether
    the task allows that). Of two recorded conditions the geometry cannot but stay: they swap.

    Parameters
    ----------
    teacher : LatentTeacher
        The brain's.
    rng : Generator
        The order.

    Returns
    -------
    LatentTeacher
        The same latents under other conditions.
    """
    place = _place(teacher)
    order, kept = permuted_branches(merged_history(_history(teacher), place), rng)
    control = _control(teacher, "relabelled", _reachable(teacher, _valid(teacher)[order]))
    return replace(control, report={**control.report, "branches_kept": kept})


def time_reversed(teacher: LatentTeacher) -> LatentTeacher:
    """Valid steps in the opposite order.

    Keeps every value, the power spectrum, smoothness, rank and which condition is which. Destroys
    the direction of time; a code that does not change over the delay survives.

    Parameters
    ----------
    teacher : LatentTeacher
        The brain's.

    Returns
    -------
    LatentTeacher
        The same latents backwards.
    """
    return _control(teacher, "reversed", _reachable(teacher, _valid(teacher)[:, ::-1]))


def phase_randomized(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """A surrogate of the same spectrum: at each frequency, phases and conditions drawn anew.

    In the cosine transform over the valid steps a phase is a sign, and there is no seam between end
    and beginning: x[c, f] -> sign_f x[order_f(c), f], the same for all latents, with no condition
    left in its place. Keeps, exactly, each latent's power spectrum and so its smoothness, all
    covariances between latents, rank, and how much of each tells time and how much conditions.
    Destroys the courses, and which condition is which.

    Parameters
    ----------
    teacher : LatentTeacher
        The brain's.
    rng : Generator
        Signs and orders.

    Returns
    -------
    LatentTeacher
        The surrogate.
    """
    spectrum = _spectrum(_valid(teacher))
    for f, sign in enumerate(np.where(rng.random(len(spectrum)) < 0.5, -1, 1)):
        spectrum[f] = (sign if f else 1) * spectrum[f][cycle(spectrum.shape[1], rng)]
    return _control(teacher, "phase", _reachable(teacher, _course(spectrum)), brain=False)


def gaussian_process(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """Random smooth latents of the same rank, covariance and smoothness.

    At each frequency of the cosine transform over the valid steps, what all conditions share and
    what sets each apart are drawn from Gaussians of the brain's covariance between latents there;
    then the covariance between latents over everything is made the brain's exactly. Keeps rank and
    covariance and, on average, the spectrum and the shares of time and conditions. Destroys all
    else: courses, and the relations of conditions.

    Parameters
    ----------
    teacher : LatentTeacher
        The brain's.
    rng : Generator
        The draw.

    Returns
    -------
    LatentTeacher
        The random latents.
    """
    spectrum = _spectrum(_valid(teacher))
    shared = spectrum.mean(axis=1, keepdims=True)
    drawn = np.empty_like(spectrum)
    for f, apart in enumerate(spectrum - shared):
        root = _root(apart.T @ apart / (len(apart) - 1))
        chance = rng.normal(size=apart.shape) @ root
        drawn[f] = rng.normal() * shared[f] + chance - chance.mean(axis=0)
    course = np.asarray(teacher.latents[:, teacher.valid], dtype=np.float64)
    latents = _with_covariance(_known(teacher, _course(drawn)), course)
    return _control(teacher, "gaussian", on_clock(latents, teacher.valid), brain=False)


def label_teacher(
    teacher: LatentTeacher, rng: np.random.Generator, *, bases: int | None = None
) -> LatentTeacher:
    """A teacher made of the condition's name and the clock alone.

    One-hot condition x slow cosines of time (the first is constant), projected at random onto as
    many uncorrelated latents as the brain has. It knows which condition it is, as far as that can
    be known yet, and what time it is, and nothing of how a brain relates them: every two conditions
    are equally far apart on average.

    Parameters
    ----------
    teacher : LatentTeacher
        The brain's, of which only the numbers of conditions, steps and latents are used, and which
        conditions it tells apart.
    rng : Generator
        The projection.
    bases : int, optional
        Functions of time; default: 3, or as many as that many latents need.

    Returns
    -------
    LatentTeacher
        Of the same shape.

    Raises
    ------
    DataError
        If labels and clock span fewer dimensions than there are latents.
    """
    conditions, steps, k = _valid(teacher).shape
    numbers = range(min(3, steps), steps + 1) if bases is None else [min(bases, steps)]
    for number in numbers:
        design = np.einsum("cd,sb->csdb", np.eye(conditions), _cosines(steps)[:, :number])
        design = _known(teacher, design.reshape(conditions, steps, -1))
        design = design.reshape(-1, conditions * number)
        rank = int(np.linalg.matrix_rank(design - design.mean(axis=0)))
        if k <= rank:
            break
    else:
        raise DataError(
            f"{k} latents are more than {conditions} conditions x {number} functions of time can "
            f"tell apart ({rank}): give fewer latents or more bases"
        )
    mixed = design @ rng.normal(size=(conditions * number, k))
    latents = np.linalg.qr(mixed - mixed.mean(axis=0))[0].reshape(-1, steps, k)
    return _control(teacher, "label", on_clock(latents, teacher.valid), brain=False)


def network_teacher(hidden: NDArray[np.floating], teacher: LatentTeacher) -> LatentTeacher:
    """A trained network in the place of the brain: principal components of its hidden states.

    Parameters
    ----------
    hidden : ndarray
        (conditions, steps, units): hidden states averaged over trials of each condition.
    teacher : LatentTeacher
        The brain's, for the number of latents and the valid steps.

    Returns
    -------
    LatentTeacher
        Of the same shape; `explained` is the share of the hidden states' variance.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the network has fewer units than there are latents.
    """
    conditions, steps, k = teacher.latents.shape
    if hidden.ndim != 3 or hidden.shape[:2] != (conditions, steps) or hidden.shape[2] < k:
        raise ValueError(
            f"hidden must be (conditions, steps, units) = ({conditions}, {steps}, at least {k}), "
            f"got {hidden.shape}"
        )
    place = _place(teacher)
    states = np.asarray(hidden, dtype=np.float64)[:, teacher.valid]
    course = _known(
        teacher, np.stack([states[place == c].mean(axis=0) for c in range(place.max() + 1)])
    )
    flat = (course - course.mean(axis=(0, 1))).reshape(-1, hidden.shape[2])
    u, size, _ = np.linalg.svd(flat, full_matrices=False)
    latents = (u[:, :k] * size[:k]).reshape(conditions, -1, k)
    control = _control(teacher, "network", on_clock(latents, teacher.valid), brain=False)
    return replace(control, explained=size[:k] ** 2 / (size**2).sum())


def _place(teacher: LatentTeacher) -> NDArray[np.int64]:
    """(conditions,): which of the distinct recorded conditions each condition of the task has."""
    if teacher.recorded is None:
        return np.arange(len(teacher.latents))
    return np.unique(teacher.recorded, return_inverse=True)[1]


def _valid(teacher: LatentTeacher) -> Array:
    """(distinct recorded conditions, valid steps, k), float64."""
    first = np.unique(_place(teacher), return_index=True)[1]
    return np.asarray(teacher.latents[first][:, teacher.valid], dtype=np.float64)


def _history(teacher: LatentTeacher) -> NDArray[np.int64]:
    """(conditions, valid steps): which conditions cannot be told apart yet."""
    if teacher.history is None:
        return np.repeat(np.arange(len(teacher.latents))[:, None], teacher.valid.sum(), axis=1)
    return teacher.history[:, teacher.valid]


def _known(teacher: LatentTeacher, course: Array) -> Array:
    """Courses (distinct recorded conditions, valid steps, d) -> (conditions, valid steps, d).

    Nothing tells apart what cannot be told apart yet.
    """
    return history_means(course[_place(teacher)], _history(teacher))


def _reachable(teacher: LatentTeacher, course: Array) -> NDArray[np.float32]:
    """`_known`, on the clock."""
    return on_clock(_known(teacher, course), teacher.valid)


def _control(
    teacher: LatentTeacher, name: str, latents: NDArray[np.float32], *, brain: bool = True
) -> LatentTeacher:
    """A control's teacher. Without a brain in it, its latents are exact and explain no brain."""
    control = replace(teacher, latents=latents, report={**teacher.report, "control": name})
    if brain:
        return control
    return replace(control, reliability=np.ones(teacher.k), explained=np.zeros(teacher.k))


def _cosines(steps: int) -> Array:
    """(steps, steps): the orthonormal cosine transform (DCT-II); a column is a frequency."""
    waves = np.cos(np.pi * np.outer(np.arange(steps) + 0.5, np.arange(steps)) / steps)
    return np.asarray(waves / np.linalg.norm(waves, axis=0))


def _spectrum(course: Array) -> Array:
    """(conditions, steps, k) -> (frequencies, conditions, k)."""
    return np.asarray(np.einsum("sf,csk->fck", _cosines(course.shape[1]), course))


def _course(spectrum: Array) -> Array:
    """(frequencies, conditions, k) -> (conditions, steps, k)."""
    return np.asarray(np.einsum("sf,fck->csk", _cosines(len(spectrum)), spectrum))


def _with_covariance(random: Array, course: Array) -> Array:
    """Random latents given the covariance of `course`, rough ones mixed with smooth ones alone."""
    order = np.argsort((np.diff(course, axis=1) ** 2).mean(axis=(0, 1)), kind="stable")
    have, want = _triangle(random[..., order]), _triangle(course[..., order])
    out = np.empty_like(random)
    out[..., order] = random[..., order] @ np.linalg.solve(have, want)
    return out


def _triangle(course: Array) -> Array:
    """(k, k) upper triangular: the covariance is its transpose times itself."""
    flat = course.reshape(-1, course.shape[2])
    flat = flat - flat.mean(axis=0)
    covariance = flat.T @ flat / len(flat)
    jitter = 1e-9 * np.trace(covariance) * np.eye(len(covariance))
    return np.asarray(np.linalg.cholesky(covariance + jitter).T)


def _root(matrix: Array) -> Array:
    """Square root of a covariance; eigenvalues below 0, which rounding makes, count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
