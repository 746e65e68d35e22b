"""gymnasium's CarRacing, driven by a simple controller and rendered without a screen."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.files import cached

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

log = logging.getLogger("b2m_fast")
STATE = ("speed", "steering", "offset", "heading", "bend near", "bend far")
_VERSION = 1  # raise when frames of the same arguments change
_SETTLE, _EVERY = 60, 6  # steps of 1/50 s: until the first frame, and between frames
_HINT = (
    "rendering CarRacing frames needs gymnasium with Box2D: pip install 'b2m-fast[driving]'; "
    "frames of real streets need only data: see b2m_fast.data.driving.CAMVID"
)


def drives(
    tracks: int, frames: int, seed: int, cache: Path
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return frames (tracks, frames, 84, 84, 3) and states (tracks, frames, 6: `STATE`), from the cache or rendered now."""
    path = cache / f"car-racing-{_key(tracks, frames, seed)}.npz"

    def render() -> dict[str, NDArray[Any]]:
        log.info("rendering %d frames of CarRacing (once; kept in %s)", tracks * frames, path)
        runs = [_drive(frames, [seed, track]) for track in range(tracks)]
        return dict(zip(("images", "states"), map(np.stack, zip(*runs, strict=True)), strict=True))

    found = cached(path, ("images", "states"), render)
    return found["images"], found["states"]


def _key(tracks: int, frames: int, seed: int) -> str:
    """Return a hash of what decides the frames."""
    found = {package.metadata["Name"]: package.version for package in metadata.distributions()}
    versions = found.get("gymnasium"), found.get("Box2D", found.get("box2d-py"))
    if None in versions:
        raise ImportError(_HINT)
    text = f"{_VERSION} {tracks} {frames} {seed} {_SETTLE} {_EVERY} {versions}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _environment() -> Any:
    """Return the simulator, which never opens a window."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            # Box2D's types lack __module__; where warnings are errors its import would crash
            warnings.simplefilter("ignore", DeprecationWarning)
            module = import_module("gymnasium.envs.box2d.car_racing")
    except Exception as error:  # gymnasium raises an error of its own for a missing Box2D
        raise ImportError(_HINT) from error
    return module.CarRacing(continuous=True)


def _drive(frames: int, seed: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return frames (frames, 84, 84, 3) and states (frames, 6) of one track."""
    rng = np.random.default_rng(seed)
    car_racing = _environment()
    try:
        car_racing.reset(seed=int(rng.integers(2**31)))
        driver = _Driver(car_racing, rng)
        images, states = [], []
        for step in range(_SETTLE + _EVERY * frames):
            wanted = step >= _SETTLE and (step - _SETTLE) % _EVERY == 0
            if not wanted:  # a frame that is not kept is not drawn; the car drives the same
                car_racing._render = lambda _mode: None
            image = car_racing.step(driver.action())[0]
            if wanted:
                images.append(image[:84, 6:90])  # without the dashboard
                states.append(driver.state())
            else:
                del car_racing._render
    finally:
        car_racing.close()
    return np.stack(images), np.array(states, dtype=np.float32)


class _Driver:
    """Steers towards a point ahead on the track, slower in bends; its speed and how far from the middle it drives are random."""

    def __init__(self, car_racing: Any, rng: np.random.Generator) -> None:
        self.car = car_racing.car
        self.track = np.array(car_racing.track)[:, 2:4]
        self.half_width = 40 / 6  # of the road, in the simulator's metres
        self.speed = rng.uniform(30, 60)
        self.sway = rng.uniform(0, 0.6), rng.uniform(15, 40), rng.uniform(0, 2 * np.pi)

    def action(self) -> NDArray[np.float32]:
        """Return steering in [-1, 1], gas and brake in [0, 1]."""
        near, far, speed = self._ahead(6), self._ahead(14), self._speed()
        target = self.speed / (1 + 2 * abs(far))
        gas = np.clip((target - speed) * 0.05, 0, 0.6)
        brake = np.clip((speed - target) * 0.02, 0, 0.6)
        return np.array([np.clip(-1.5 * near, -1, 1), gas, brake], dtype=np.float32)

    def state(self) -> list[float]:
        """Return the columns of `STATE`: in lengths, radians and seconds of the simulator."""
        here = self._nearest()
        along = self._tangent(here) / np.linalg.norm(self._tangent(here))
        beside = np.array(self.car.hull.position) - self.track[here]
        offset = along[0] * beside[1] - along[1] * beside[0]
        steering = float(self.car.wheels[0].joint.angle)
        heading = self._angle(along)
        bends = [self._angle(self._tangent(here + n)) - heading for n in (8, 16)]
        wrapped = [float(np.arctan2(np.sin(b), np.cos(b))) for b in bends]
        return [self._speed(), steering, float(offset / self.half_width), heading, *wrapped]

    def _nearest(self) -> int:
        position = np.array(self.car.hull.position)
        return int(((self.track - position) ** 2).sum(axis=1).argmin())

    def _speed(self) -> float:
        return float(np.linalg.norm(np.array(self.car.hull.linearVelocity)))

    def _tangent(self, place: int) -> NDArray[np.float64]:
        count = len(self.track)
        return np.asarray(self.track[(place + 1) % count] - self.track[place % count])

    def _angle(self, direction: NDArray[np.float64]) -> float:
        """Return the angle from where the car points to a direction, positive to the left."""
        heading = float(self.car.hull.angle)
        forward = np.array([-np.sin(heading), np.cos(heading)])
        turn = forward[0] * direction[1] - forward[1] * direction[0]
        return float(np.arctan2(turn, forward @ direction))

    def _ahead(self, tiles: int) -> float:
        """Return the angle to a point ahead on the driver's own line."""
        place = (self._nearest() + tiles) % len(self.track)
        tangent = self._tangent(place)
        normal = np.array([-tangent[1], tangent[0]]) / np.linalg.norm(tangent)
        size, period, phase = self.sway
        aside = size * self.half_width * np.sin(2 * np.pi * place / period + phase)
        point = self.track[place] + aside * normal
        return self._angle(point - np.array(self.car.hull.position))
