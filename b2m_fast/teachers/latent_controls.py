"""Controls of latents: teachers without a brain, or with a scrambled one, that a brain must beat.

Each says what it keeps of the brain's latents and what it destroys. All but the label's and the
network's are functions of the brain's teacher, and so have its rank, scale and steps. All tell
conditions apart, in the same way in every trial: consistency is no privilege of the brain, and
`label`, which has nothing else to offer, is the decisive control.

None knows more than the brain did. Conditions of the task that share a recorded condition share the
control's latents; and as long as inputs do not tell conditions apart (`LatentTeacher.shared_prefix`),
the control's latents are averaged over these before they are z-scored. Otherwise a control would ask
for the future, and lose against the brain for that alone. What is said to be kept exactly is so at
steps at which all conditions are known; before that, only of the part that can be known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from b2m_fast.data.files import DataError
from b2m_fast.teachers.latents import LatentTeacher, z_scored_steps
from b2m_fast.teachers.shared_prefix import cycle, merged, permuted_branches, prefix_means

Array = NDArray[np.float64]


def relabelled(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """Permute the recorded conditions; none keeps its own latents.

    Keeps every value, the time course, smoothness, rank and the geometry among conditions. Destroys
    which condition is which, and so the likeness of conditions that are alike in the task.
    Conditions that part at some step change places only with conditions that do so too, so that what
    they had in common before is still in common (`permuted_branches`; ``branches_kept`` in the report
    says whether the task allows that). Of two recorded conditions the geometry stays: they swap.
    """
    order, kept = permuted_branches(merged(_prefix(teacher), _place(teacher)), rng)
    control = _control(teacher, "relabelled", _recorded(teacher)[order])
    return replace(control, report={**control.report, "branches_kept": kept})


def time_reversed(teacher: LatentTeacher) -> LatentTeacher:
    """Reverse the order of the valid steps.

    Keeps every value, the power spectrum, smoothness, rank and which condition is which. Destroys
    the direction of time; a code that is constant over the delay survives.
    """
    return _control(teacher, "reversed", _recorded(teacher)[:, ::-1])


def phase_randomized(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """Surrogate of the same spectrum: random sign and permuted conditions at each frequency.

    In the cosine transform over the valid steps a phase is a sign, and end and beginning do not
    meet: x[c, f] -> sign_f x[order_f(c), f], the same for all latents, no condition in its place.
    Keeps, exactly, the power spectrum (and so smoothness), all covariances between latents, rank, and
    the shares of time and conditions in each. Destroys the courses, and which condition is which.
    """
    spectrum = _spectrum(_recorded(teacher))
    for f, sign in enumerate(np.where(rng.random(len(spectrum)) < 0.5, -1, 1)):
        spectrum[f] = (sign if f else 1) * spectrum[f][cycle(spectrum.shape[1], rng)]
    return _control(teacher, "phase", _course(spectrum), brain=False)


def gaussian(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """Random smooth latents of the same rank, covariance and smoothness.

    At each frequency of the cosine transform over the valid steps, what all conditions share and
    what sets each apart are drawn from Gaussians with the covariance of the brain's latents there;
    then the covariance over everything is made the brain's exactly. Keeps rank and covariance and,
    on average, the spectrum and the shares of time and conditions. Destroys all else: courses, and
    the relations of conditions.
    """
    course = _recorded(teacher)
    spectrum = _spectrum(course)
    shared = spectrum.mean(axis=1, keepdims=True)
    drawn = np.empty_like(spectrum)
    for f, apart in enumerate(spectrum - shared):
        noise = rng.normal(size=apart.shape) @ _root(apart.T @ apart / (len(apart) - 1))
        drawn[f] = rng.normal() * shared[f] + noise - noise.mean(axis=0)
    known = np.asarray(teacher.latents[:, teacher.valid], dtype=np.float64)
    latents = _with_covariance(_known(teacher, _course(drawn)), known)
    return _control(teacher, "gaussian", latents, brain=False, known=True)


def label(teacher: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    """Latents made of the condition's name and the time alone.

    One-hot condition x slow cosines of time (the first is constant; three, or as many as are
    needed), projected at random onto as many uncorrelated latents as the brain has. On average every
    two conditions are equally far apart. Of the brain, only the number of latents, the steps and the
    distinct conditions are used. DataError if conditions and cosines cannot span as many dimensions.
    """
    conditions, steps, k = _recorded(teacher).shape
    cosines = fft.idct(np.eye(steps), axis=0, norm="ortho")
    for number in range(min(3, steps), steps + 1):
        design = np.einsum("cd,sb->csdb", np.eye(conditions), cosines[:, :number])
        design = _known(teacher, design.reshape(conditions, steps, -1))
        design = design.reshape(-1, conditions * number)
        rank = int(np.linalg.matrix_rank(design - design.mean(axis=0)))
        if k <= rank:
            break
    else:
        raise DataError(
            f"{k} latents are more than {conditions} conditions x {number} functions of time can "
            f"tell apart ({rank}): take fewer latents"
        )
    mixed = design @ rng.normal(size=(conditions * number, k))
    latents = np.linalg.qr(mixed - mixed.mean(axis=0))[0].reshape(-1, steps, k)
    return _control(teacher, "label", latents, brain=False, known=True)


def network(teacher: LatentTeacher, hidden: NDArray[np.floating]) -> LatentTeacher:
    """Principal components of a trained network's hidden states, in place of the brain's latents.

    `hidden` (conditions, steps, units): hidden states averaged over trials of each condition.
    `explained` is the share of their variance. ValueError if the shapes do not fit, or the network
    has fewer units than there are latents.
    """
    conditions, steps, k = teacher.latents.shape
    if hidden.ndim != 3 or hidden.shape[:2] != (conditions, steps) or hidden.shape[2] < k:
        raise ValueError(
            f"hidden must be (conditions, steps, units) = ({conditions}, {steps}, at least {k}), "
            f"got {hidden.shape}"
        )
    place = _place(teacher)
    states = np.asarray(hidden, dtype=np.float64)[:, teacher.valid]
    means = np.stack([states[place == c].mean(axis=0) for c in range(place.max() + 1)])
    course = _known(teacher, means)
    flat = (course - course.mean(axis=(0, 1))).reshape(-1, hidden.shape[2])
    u, size, _ = np.linalg.svd(flat, full_matrices=False)
    latents = (u[:, :k] * size[:k]).reshape(conditions, -1, k)
    control = _control(teacher, "network", latents, brain=False, known=True)
    return replace(control, explained=size[:k] ** 2 / (size**2).sum())


# --------------------------------------------------------------------------------------------------
# What was recorded, and what can be known
# --------------------------------------------------------------------------------------------------
def _place(teacher: LatentTeacher) -> NDArray[np.int64]:
    """Return the number (conditions,) of the distinct recorded condition of each condition."""
    if teacher.recorded is None:
        return np.arange(len(teacher.latents))
    return np.unique(teacher.recorded, return_inverse=True)[1]


def _recorded(teacher: LatentTeacher) -> Array:
    """Return latents (distinct recorded conditions, valid steps, k), float64."""
    first = np.unique(_place(teacher), return_index=True)[1]
    return np.asarray(teacher.latents[first][:, teacher.valid], dtype=np.float64)


def _prefix(teacher: LatentTeacher) -> NDArray[np.int64]:
    """Return groups (conditions, valid steps) of conditions that cannot be told apart yet."""
    if teacher.shared_prefix is None:
        return np.repeat(np.arange(len(teacher.latents))[:, None], teacher.valid.sum(), axis=1)
    return teacher.shared_prefix[:, teacher.valid]


def _known(teacher: LatentTeacher, course: Array) -> Array:
    """Return what can be known (conditions, valid steps, d) of courses of recorded conditions."""
    return prefix_means(course[_place(teacher)], _prefix(teacher))


def _control(
    teacher: LatentTeacher, name: str, course: Array, *, brain: bool = True, known: bool = False
) -> LatentTeacher:
    """Return a teacher with other courses; without a brain, these are exact and explain none.

    Courses are of the recorded conditions; `known`: of the task's, with only what can be known.
    """
    latents = z_scored_steps(course if known else _known(teacher, course), teacher.valid)
    control = replace(teacher, latents=latents, report={**teacher.report, "control": name})
    if brain:
        return control
    return replace(control, reliability=np.ones(teacher.k), explained=np.zeros(teacher.k))


# --------------------------------------------------------------------------------------------------
# Spectra and covariances
# --------------------------------------------------------------------------------------------------
def _spectrum(course: Array) -> Array:
    """Cosine transform: (conditions, steps, k) -> (frequencies, conditions, k)."""
    return np.asarray(fft.dct(course, axis=1, norm="ortho").swapaxes(0, 1))


def _course(spectrum: Array) -> Array:
    """Invert `_spectrum`."""
    return np.asarray(fft.idct(spectrum, axis=0, norm="ortho").swapaxes(0, 1))


def _with_covariance(random: Array, course: Array) -> Array:
    """Give random latents the covariance of `course`; rough ones are mixed with smooth ones only."""
    order = np.argsort((np.diff(course, axis=1) ** 2).mean(axis=(0, 1)), kind="stable")
    have, want = _triangle(random[..., order]), _triangle(course[..., order])
    out = np.empty_like(random)
    out[..., order] = random[..., order] @ np.linalg.solve(have, want)
    return out


def _triangle(course: Array) -> Array:
    """Return the upper triangular (k, k) whose transpose times itself is the covariance."""
    flat = course.reshape(-1, course.shape[2])
    flat = flat - flat.mean(axis=0)
    covariance = flat.T @ flat / len(flat)
    jitter = 1e-9 * np.trace(covariance) * np.eye(len(covariance))
    return np.asarray(np.linalg.cholesky(covariance + jitter).T)


def _root(matrix: Array) -> Array:
    """Return the square root of a covariance; eigenvalues below 0 are rounding, and count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
