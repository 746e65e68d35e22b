"""Files and arrays that a user brings: found, checked, and refused with what to do.

Nothing is ever downloaded: a missing file gives an error that says what it is, where to get it, and under what licence.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "DataError",
    "Source",
    "cache_root",
    "cached",
    "data_root",
    "digest",
    "fingerprint",
    "images",
    "load_jpegs",
    "load_npy",
    "load_npz",
    "numbers",
    "require",
    "whole_number",
    "whole_numbers",
    "write_atomically",
]

log = logging.getLogger("b2m_fast")
ENVIRONMENT = "B2M_DATA"
CACHE = "B2M_CACHE"


class DataError(RuntimeError):
    """A file is missing or data are not what they should be; the message says what to do about it."""


@dataclass(frozen=True)
class Source:
    """Where the files of a data set come from.

    Parameters
    ----------
    name : str
        What it is, in a few words.
    folder : str
        Its folder under the data directory.
    files : tuple of str
        Names of its files in that folder.
    origin : str
        Where to get them, and how they must lie in the folder.
    licence : str
        What their authors allow, and whom to cite.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    origin: str
    licence: str

    def paths(
        self, root: str | Path | None = None, files: Sequence[str] | None = None
    ) -> list[Path]:
        """Return the paths of all files, or of some.

        Raises
        ------
        DataError
            If there is no data directory (`data_root`) or a file is missing: where to get it and under what licence.
        """
        folder = data_root(root) / self.folder
        found = [folder / name for name in (self.files if files is None else files)]
        for path in found:
            if not path.is_file():
                raise DataError(
                    f"{path} is missing: it is part of {self.name}.\n"
                    f"  Where to get it: {self.origin}\n"
                    f"  Licence: {self.licence}"
                )
        return found


def data_root(given: str | Path | None = None) -> Path:
    """Return the directory with the user's data: `given` (``--data``), or what the variable B2M_DATA names.

    Raises
    ------
    DataError
        If neither names one, or it is no directory.
    """
    name = given or os.environ.get(ENVIRONMENT)
    if not name:
        raise DataError(
            f"this needs recordings: name their directory with --data DIR or {ENVIRONMENT}"
        )
    root = Path(name).expanduser()
    if not root.is_dir():
        wrong = "is no folder" if root.exists() else "does not exist"
        raise DataError(f"the data directory {root} {wrong} (from --data or {ENVIRONMENT})")
    return root


def cache_root() -> Path:
    """Return the folder for what can be made again: B2M_CACHE, or b2m_fast in XDG_CACHE_HOME (by default ~/.cache)."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "b2m_fast"


def cached(
    path: Path, keys: Sequence[str], make: Callable[[], Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return arrays by name from a ``.npz`` file of the cache, or make them and keep them there."""
    if path.is_file():
        try:
            return load_npz(path, keys)
        except DataError:
            log.warning("%s cannot be read: what it held is made again", path)
    found = dict(make())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(temporary, allow_pickle=False, **found)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return found


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------
def load_npy(path: Path, *, ndim: int) -> NDArray[Any]:
    """Return the array of a ``.npy`` file, which must have `ndim` dimensions; never unpickles."""
    try:
        with path.open("rb") as stream:
            array: Any = np.load(stream, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as a NumPy array ({error}); fetch it again"
        ) from error
    if getattr(array, "ndim", None) != ndim:
        got = getattr(array, "shape", type(array).__name__)
        raise DataError(f"{path} must hold one array of {ndim} dimensions, got {got}")
    checked: NDArray[Any] = array
    return checked


def load_npz(path: Path, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of a ``.npz`` archive by name; never unpickles."""
    wanted = tuple(keys)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            missing = [key for key in wanted if key not in archive.files]
            if missing:
                raise DataError(
                    f"{path} lacks the arrays {missing}; it holds {sorted(archive.files)}"
                )
            return {key: archive[key] for key in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as a NumPy archive ({error}); fetch it again"
        ) from error


def load_jpegs(path: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the names in a zip of JPEG images of one size, sorted, and the images (n, H, W, 3) in that order."""
    try:
        from PIL import Image  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "reading JPEG images needs Pillow: pip install 'b2m-fast[experiments]'"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.lower().endswith((".jpg", ".jpeg")))
            frames = [
                np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                for name in names
            ]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path} cannot be read as a zip of JPEG images ({error}); fetch it again"
        ) from error
    if len({frame.shape for frame in frames}) != 1:
        raise DataError(f"{path} must hold JPEG images of one size, got {len(frames)} images")
    return names, np.stack(frames)


def require(path: Path, right: bool, name: str, expected: str, got: NDArray[Any]) -> None:
    """Raise DataError unless an array of a file is as expected."""
    if not right:
        raise DataError(f"{path}: {name} must be {expected}, got {got.dtype} {got.shape}")


# --------------------------------------------------------------------------------------------------
# Hashing and writing
# --------------------------------------------------------------------------------------------------
def fingerprint(paths: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over the contents of files in this order; "" for no file."""
    parts = []
    for path in paths:
        with path.open("rb") as stream:
            parts.append(hashlib.file_digest(stream, "sha256").digest())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16] if parts else ""


def digest(config: object) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all (temporary file, fsync, replace)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# --------------------------------------------------------------------------------------------------
# Checking arrays: made what they should be where that is harmless, refused by their name where not
# --------------------------------------------------------------------------------------------------
def numbers(name: str, value: object, ndim: int, axes: str) -> NDArray[Any]:
    """Return real numbers as an array of `ndim` dimensions, which `axes` names; an array is not copied."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{name} must be an array {axes} of numbers: {reason}") from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be real numbers {axes}, got dtype {array.dtype}")
    if array.ndim != ndim:
        raise DataError(f"{name} must have {ndim} dimensions {axes}, got shape {array.shape}")
    return array


def whole_numbers(name: str, value: object, axes: str) -> NDArray[np.int64]:
    """Return whole numbers in one dimension as int64; floats without a fraction are taken."""
    array = numbers(name, value, 1, axes)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise DataError(f"{name} must be whole numbers {axes}, got {array.dtype} with fractions")
    return array.astype(np.int64, copy=False)


def images(name: str, value: object) -> NDArray[np.float32]:
    """Return images (n, channels, height, width) of floats from 0 to 1 as float32."""
    array = numbers(name, value, 4, "(n, channels, height, width)")
    if array.dtype.kind != "f":
        raise DataError(
            f"{name} must be floats from 0 to 1, got dtype {array.dtype}: divide bytes by 255"
        )
    if array.size and not (array.min() >= -1e-5 and array.max() <= 1 + 1e-5):  # so is NaN
        raise DataError(f"{name} must be from 0 to 1, got {array.min():.3g} to {array.max():.3g}")
    return array.astype(np.float32, copy=False)


def whole_number(name: str, value: object, least: int) -> None:
    """Raise ValueError unless a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}")  # noqa: TRY004
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
