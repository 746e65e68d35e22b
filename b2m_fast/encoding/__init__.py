"""Encoding models: image features, and regressions that predict recorded responses from them.

Responses are (images, neurons), or (rows, targets), everywhere. Names are loaded when they are first used, torch with
them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "banded": ("BandedRidge", "fit_banded_ridge"),
    "columns": ("column_correlation", "noise_ceiling", "reliability", "standardised"),
    "components": ("Components", "fit_components"),
    "delays": ("delayed", "fmri_delays"),
    "encoders": ("Denoised", "LayerEncoder", "crossfit", "fit_encoder", "fit_layers"),
    "features": ("cnn_features", "gabor_pyramid", "load_network", "tap", "tap_names"),
    "networks": ("NetworkFeatures",),
    "quality": ("EncoderQuality", "encoder_quality"),
    "ridge": ("ALPHAS", "Ridge", "fit_ridge"),
}
__all__ = sorted(name for names in _MODULES.values() for name in names)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
