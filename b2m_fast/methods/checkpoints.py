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

from b2m_fast.data.files import optional, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "b2m_fast checkpoint 1"
TENSOR = "__tensor__"
NEEDED = "checkpoints need safetensors"


class CheckpointError(ValueError):
    """A file is not a whole checkpoint."""


def _digest(tree: str, tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of everything that a checkpoint holds."""
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

    def stored(x: object) -> dict[str, str]:
        if not isinstance(x, Tensor):
            raise TypeError(f"a checkpoint cannot hold a {type(x).__name__}")
        name = str(len(tensors))
        tensors[name] = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: name}

    tree = json.dumps(state, default=stored)
    header = {"format": FORMAT, "state": tree, "sha256": _digest(tree, tensors)}
    write_atomically(path, optional("safetensors.torch", NEEDED).save(tensors, header))


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
    st = optional("safetensors", NEEDED)
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
    state: dict[str, Any] = json.loads(
        tree, object_hook=lambda d: tensors[d[TENSOR]] if set(d) == {TENSOR} else d
    )
    return state
