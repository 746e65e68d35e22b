"""Finding and checking the files a user brings.

Nothing is ever downloaded: a missing file gives an error that says what it is, where to get it,
and under what licence.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = [
    "DataError",
    "Source",
    "cache_root",
    "data_root",
    "digest",
    "fingerprint",
    "load_jpegs",
    "load_npy",
    "load_npz",
    "write_atomically",
]

ENVIRONMENT = "B2M_DATA"
CACHE = "B2M_CACHE"


class DataError(RuntimeError):
    """A file is missing or is not what it should be; the message says what to do about it."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes
    ----------
    name : str
        What it is, in a few words.
    folder : str
        Its folder under the data directory.
    origin : str
        Where to get it, and how it must lie in the folder.
    licence : str
        What its authors allow, and whom to cite.
    """

    name: str
    folder: str
    origin: str
    licence: str

    def path(self, root: Path, file: str) -> Path:
        """Path of one of its files.

        Parameters
        ----------
        root : Path
            The data directory.
        file : str
            Name of the file inside the folder.

        Returns
        -------
        Path
            ``root / folder / file``, known to exist.

        Raises
        ------
        DataError
            If there is no such file; the message says where to get it and under what licence.
        """
        path = root / self.folder / file
        if not path.is_file():
            message = (
                f"{path} is missing: it is part of {self.name}.\n"
                f"  Where to get it: {self.origin}\n"
                f"  Licence: {self.licence}"
            )
            raise DataError(message)
        return path


def data_root(given: str | Path | None = None) -> Path:
    """Directory with the user's data.

    Parameters
    ----------
    given : str or Path, optional
        The directory (``--data``); default: the environment variable ``B2M_DATA``.

    Returns
    -------
    Path
        The directory, known to exist.

    Raises
    ------
    DataError
        If neither is given, or it is not a directory.
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
    """Folder for what can be made again.

    Returns
    -------
    Path
        The environment variable ``B2M_CACHE``, or ``b2m_fast`` in ``XDG_CACHE_HOME`` (by default
        ``~/.cache``); it need not exist.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "b2m_fast"


def load_npy(path: Path, *, ndim: int) -> NDArray[Any]:
    """Read a ``.npy`` array and check its dimensions (never unpickles).

    Parameters
    ----------
    path : Path
        The file.
    ndim : int
        The number of dimensions it must have.

    Returns
    -------
    ndarray
        The array.

    Raises
    ------
    DataError
        If the file is not a readable array, or has other dimensions.
    """
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
    """Read named arrays from a ``.npz`` archive (never unpickles).

    Parameters
    ----------
    path : Path
        The file.
    keys : iterable of str
        The arrays it must hold.

    Returns
    -------
    dict of str to ndarray
        Those arrays.

    Raises
    ------
    DataError
        If the file is not a readable archive, or lacks one of them.
    """
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
    """Read a zip of JPEG images of one size.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    names : list of str
        Names inside the archive, sorted.
    images : ndarray
        (n, H, W, 3), uint8 RGB, in that order.

    Raises
    ------
    DataError
        If it cannot be read, or the images differ in size.
    ImportError
        If Pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "reading JPEG images needs Pillow: pip install 'b2m-fast[transfer]'"
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


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of files, in the given order (empty for none).

    Parameters
    ----------
    paths : iterable of Path
        The files.

    Returns
    -------
    str
        16 hexadecimal digits, or ``""`` for no file.
    """
    total = hashlib.sha256()
    count = 0
    for path in paths:
        with path.open("rb") as stream:
            total.update(hashlib.sha256(stream.read()).digest())
        count += 1
    return total.hexdigest()[:16] if count else ""


def digest(config: object) -> str:
    """Hash of a configuration: SHA-256 of its JSON with sorted keys, 16 digits.

    Parameters
    ----------
    config : object
        Anything JSON can hold.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all (temporary file, fsync, replace).

    Parameters
    ----------
    path : Path
        The file; an older one is replaced.
    content : str or bytes
        What to write.
    """
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
