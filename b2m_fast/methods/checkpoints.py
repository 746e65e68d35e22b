"""Checkpoints: one safetensors file each, whole or not at all, checked when it is read.

A state is a tree of dicts and lists with tensors, numbers, strings, booleans and None at its ends.
The tensors go into the file as they are, the rest as JSON into its header. Nothing in it is code:
reading a checkpoint, unlike unpickling one, runs nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from b2m_fast.data.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "b2m_fast checkpoint 1"
TENSOR = "__tensor__"


class CheckpointError(ValueError):
    """A file is not a whole checkpoint."""


def _safetensors() -> Any:
    try:
        import safetensors.torch  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "checkpoints need safetensors: pip install 'b2m-fast[experiments]'"
        ) from error
    return safetensors


def _pack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree with its tensors moved to `tensors`, a name in the place of each."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {TENSOR: name}
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise TypeError(f"keys of a state must be strings, got {list(tree)}")
        return {key: _pack(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_pack(value, tensors) for value in tree]
    return tree


def _unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_pack`."""
    if isinstance(tree, dict):
        if set(tree) == {TENSOR}:
            return tensors[tree[TENSOR]]
        return {key: _unpack(value, tensors) for key, value in tree.items()}
    return [_unpack(value, tensors) for value in tree] if isinstance(tree, list) else tree


def _digest(tree: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of everything a checkpoint says."""
    sha = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        x = tensors[name]
        sha.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        sha.update(x.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state; an older checkpoint stays until the new one is whole.

    Parameters
    ----------
    path : Path
        The file.
    state : dict
        Tree of dicts (keys: strings), lists, tensors, numbers, strings, booleans and None. Tuples
        come back as lists, tensors on the CPU and contiguous.

    Raises
    ------
    TypeError
        If the tree holds something else.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    header = {"format": FORMAT, "state": tree, "sha256": _digest(tree, tensors)}
    write_atomically(path, _safetensors().torch.save(tensors, header))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        The state.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file was cut off or changed, or is no checkpoint.
    """
    st = _safetensors()
    try:
        with st.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except st.SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of this version: its format is {header.get('format')!r}, "
            f"expected {FORMAT!r}"
        )
    tree = header.get("state", "")
    if _digest(tree, tensors) != header.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its contents do not fit their checksum")
    state: dict[str, Any] = _unpack(json.loads(tree), tensors)
    return state
