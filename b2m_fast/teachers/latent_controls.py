"""Latent teachers that hold no brain, or a broken one: what a claim for the brain must beat.

Each says what it keeps of the brain's latents and what it destroys. All of them but the label's and
the network's are functions of the brain's teacher, so that they have its rank, scale and steps. All
of them still tell conditions apart, and the same way in every trial: consistency is no privilege of
the brain, and `label_teacher`, which has nothing else to give, is the decisive arm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data.files import DataError
from b2m_fast.teachers.latents import LatentTeacher, on_clock

__all__ = [
    "gaussian_process",
    "label_teacher",
    "network_teacher",
    "phase_randomized",
    "shuffled",
    "time_reversed",
]

Array = NDArray[np.float64]


def shuffled(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """Conditions dealt out anew, none keeping its own latents.

    Keeps every value, the time course, smoothness and rank, and the geometry among conditions.
    Destroys which condition is which, and so the likeness of conditions that are alike in the task.

    Parameters
    ----------
    teacher : LatentTeacher
        The brain's.
    rng : Generator
        The order, a random cycle through all conditions.

    Returns
    -------
    LatentTeacher
        The same latents under other conditions.
    """
    order = _cycle(len(teacher.latents), rng)
    return _control(teacher, "shuffled", teacher.latents[order])


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
    latents = teacher.latents.copy()
    latents[:, teacher.valid] = latents[:, teacher.valid][:, ::-1]
    return _control(teacher, "reversed", latents)


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
        spectrum[f] = (sign if f else 1) * spectrum[f][_cycle(spectrum.shape[1], rng)]
    return _control(teacher, "phase", on_clock(_course(spectrum), teacher.valid), brain=False)


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
    course = _valid(teacher)
    spectrum = _spectrum(course)
    shared = spectrum.mean(axis=1, keepdims=True)
    drawn = np.empty_like(spectrum)
    for f, apart in enumerate(spectrum - shared):
        root = _root(apart.T @ apart / (len(apart) - 1))
        chance = rng.normal(size=apart.shape) @ root
        drawn[f] = rng.normal() * shared[f] + chance - chance.mean(axis=0)
    latents = on_clock(_with_covariance(_course(drawn), course), teacher.valid)
    return _control(teacher, "gaussian", latents, brain=False)


def label_teacher(
    teacher: LatentTeacher, rng: np.random.Generator, *, bases: int = 3
) -> LatentTeacher:
    """A teacher made of the condition's name and the clock alone.

    One-hot condition x slow cosines of time (the first is constant), projected at random onto as
    many uncorrelated latents as the brain has. It knows which condition it is and what time it is,
    and nothing of how a brain relates them: every two conditions are equally far apart on average.

    Parameters
    ----------
    teacher : LatentTeacher
        The brain's, of which only the numbers of conditions, steps and latents are used.
    rng : Generator
        The projection.
    bases : int, default 3
        Functions of time.

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
    bases = min(bases, steps)
    design = np.einsum("cd,sb->csdb", np.eye(conditions), _cosines(steps)[:, :bases])
    design = design.reshape(conditions * steps, conditions * bases)
    rank = conditions * bases - 1
    if k > rank:
        raise DataError(
            f"{k} latents are more than {conditions} conditions x {bases} functions of time can "
            f"tell apart ({rank}): give fewer latents or more bases"
        )
    mixed = design @ rng.normal(size=(conditions * bases, k))
    latents = np.linalg.qr(mixed - mixed.mean(axis=0))[0].reshape(conditions, steps, k)
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
    course = np.asarray(hidden, dtype=np.float64)[:, teacher.valid]
    flat = (course - course.mean(axis=(0, 1))).reshape(-1, hidden.shape[2])
    u, size, _ = np.linalg.svd(flat, full_matrices=False)
    latents = (u[:, :k] * size[:k]).reshape(conditions, -1, k)
    control = _control(teacher, "network", on_clock(latents, teacher.valid), brain=False)
    return replace(control, explained=size[:k] ** 2 / (size**2).sum())


def _valid(teacher: LatentTeacher) -> Array:
    """(conditions, valid steps, k), float64."""
    return np.asarray(teacher.latents[:, teacher.valid], dtype=np.float64)


def _control(
    teacher: LatentTeacher, name: str, latents: NDArray[np.float32], *, brain: bool = True
) -> LatentTeacher:
    """A control's teacher. Without a brain in it, its latents are exact and explain no brain."""
    report = {**teacher.report, "control": name}
    if brain:
        return replace(teacher, latents=latents, report=report)
    return LatentTeacher(latents, teacher.valid, np.ones(teacher.k), np.zeros(teacher.k), report)


def _cycle(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """An order in which nothing keeps its place: one random cycle through all."""
    cycle = rng.permutation(count)
    order = np.empty_like(cycle)
    order[cycle] = np.roll(cycle, 1)
    return order


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
