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
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray


Axes = tuple[str | int, ...]
log = logging.getLogger("b2m_fast")
Root = str | Path | None  # the data directory; None: what B2M_DATA names


class DataError(RuntimeError):
    """A file is missing or data are not what they should be; the message says what to do about it."""


def require(right: object, message: str) -> None:
    """Raise DataError with a message unless something is right."""
    if not right:
        raise DataError(message)


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

    def paths(self, root: Root = None, files: Sequence[str] | None = None) -> list[Path]:
        """Return the paths of all files, or of some.

        Raises
        ------
        DataError
            If there is no data directory (`data_root`) or a file is missing: where to get it and under what licence.
        """
        folder = data_root(root) / self.folder
        found = [folder / name for name in (self.files if files is None else files)]
        for path in found:
            where = f"  Where to get it: {self.origin}\n  Licence: {self.licence}"
            require(path.is_file(), f"{path} is missing: it is part of {self.name}.\n{where}")
        return found


def data_root(given: Root = None) -> Path:
    """Return the directory with the user's data: `given` (``--data``), or what the variable B2M_DATA names.

    Raises
    ------
    DataError
        If neither names one, or it is no directory.
    """
    name, how = (
        given or os.environ.get("B2M_DATA", ""),
        "name their directory with --data DIR or B2M_DATA",
    )
    require(name, f"this needs recordings: {how}")
    root = Path(name).expanduser()
    wrong = "is no folder" if root.exists() else "does not exist"
    require(root.is_dir(), f"the data directory {root} {wrong}: {how}")
    return root


def cache_root() -> Path:
    """Return the folder for what can be made again: B2M_CACHE, or b2m_fast in XDG_CACHE_HOME (by default ~/.cache)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "b2m_fast")
    return Path(os.environ.get("B2M_CACHE") or default).expanduser()


def cached(
    path: Path, keys: Sequence[str], make: Callable[[], Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return arrays by name from a ``.npz`` file of the cache, or make them and keep them there."""
    if path.is_file():
        try:
            return load_npz(path, dict.fromkeys(keys))
        except DataError:
            log.warning("%s cannot be read: what it held is made again", path)
    found = dict(make())
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **found)
    write_atomically(path, content.getbuffer())
    return found


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------
@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn what reading a file may raise into an error that names it."""
    broken = (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError)
    try:
        yield
    except broken as error:
        raise DataError(f"{path} cannot be read as {what} ({error}); fetch it again") from error


def load_npy(path: Path, *, ndim: int) -> NDArray[Any]:
    """Return the array of a ``.npy`` file, which must have `ndim` dimensions; never unpickles."""
    with _reading(path, "a NumPy array"), path.open("rb") as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    expected = f"{path} must hold an array of {ndim} dimensions"
    require(array.ndim == ndim, f"{expected}, got {array.shape}")
    return array


def load_npz(path: Path, arrays: Mapping[str, Axes | None]) -> dict[str, NDArray[Any]]:
    """Return arrays of a ``.npz`` archive by name; never unpickles.

    `arrays` says which, and their axes: a number is an axis of this length, a word one of the same length wherever the word stands;
    None takes any shape.
    """
    with (
        _reading(path, "a NumPy archive"),
        path.open("rb") as stream,
        np.load(stream, allow_pickle=False) as archive,
    ):
        missing, there = [key for key in arrays if key not in archive.files], sorted(archive.files)
        require(not missing, f"{path} lacks the arrays {missing}; it holds {there}")
        found = {key: np.asarray(archive[key]) for key in arrays}
    lengths: dict[str | int, int] = {}
    for key, axes in arrays.items():
        if axes is not None:
            shape, words = found[key].shape, ", ".join(map(str, axes))
            lengths = dict(zip(axes, shape, strict=False)) | lengths
            right = shape == tuple(lengths.get(a, -1) if isinstance(a, str) else a for a in axes)
            require(right, f"{path}: {key} must be ({words}), got {shape}")
    return found


def load_jpegs(path: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the names in a zip of JPEG images of one size, sorted, and the images (n, H, W, 3) in that order."""
    image = optional("PIL.Image", "reading JPEG images needs Pillow")
    with _reading(path, "a zip of JPEG images"), zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".jpg", ".jpeg")))
        opened = (image.open(io.BytesIO(archive.read(name))) for name in names)
        frames = [np.asarray(picture.convert("RGB")) for picture in opened]
    one = len({frame.shape for frame in frames}) == 1
    require(one, f"{path} must hold JPEG images of one size, got {len(frames)} images")
    return names, np.stack(frames)


def optional(module: str, why: str, install: str = "'b2m-fast[experiments]'") -> Any:
    """Return a module that need not be installed; ImportError says why it is needed and how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{why}: pip install {install}") from error


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


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all (temporary file, fsync, replace)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
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
    expected, got = f"{name} must be real numbers {axes}", f"{array.dtype} {array.shape}"
    require(array.dtype.kind in "biuf" and array.ndim == ndim, f"{expected}, got {got}")
    return array


def whole_numbers(name: str, value: object, axes: str) -> NDArray[np.int64]:
    """Return whole numbers in one dimension as int64; floats without a fraction are taken."""
    array = numbers(name, value, 1, axes)
    whole = array.dtype.kind != "f" or (np.isfinite(array) & (array == np.round(array))).all()
    require(whole, f"{name} must be whole numbers {axes}, got {array.dtype} with fractions")
    return array.astype(np.int64, copy=False)


def images(name: str, value: object) -> NDArray[np.float32]:
    """Return images (n, channels, height, width) of floats from 0 to 1 as float32."""
    array = numbers(name, value, 4, "(n, channels, height, width)")
    got = f"{name} must be floats from 0 to 1, got"
    require(array.dtype.kind == "f", f"{got} dtype {array.dtype}: divide bytes by 255")
    low, high = array.min(initial=0.0), array.max(initial=0.0)
    require(low >= -1e-5 and high <= 1 + 1e-5, f"{got} {low:.3g} to {high:.3g}")  # not NaN either
    return array.astype(np.float32, copy=False)


def whole_number(name: str, value: object, least: int) -> None:
    """Raise ValueError unless a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}")  # noqa: TRY004
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
