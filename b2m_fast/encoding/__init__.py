"""Encoding models: image features, and regressions that predict recorded responses from them.

Responses are (images, neurons), or (rows, targets), everywhere. Names are loaded when they are first used, torch with
them.
"""

from __future__ import annotations

from b2m_fast._lazy import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "banded": ("BandedRidge", "fit_banded_ridge"),
        "columns": ("column_correlation", "noise_ceiling", "reliability", "standardised"),
        "components": ("Components", "fit_components"),
        "delays": ("delayed", "fmri_delays"),
        "encoders": ("Denoised", "LayerEncoder", "crossfit", "fit_encoder", "fit_layers"),
        "features": ("cnn_features", "gabor_pyramid", "load_network", "tap", "tap_names"),
        "networks": ("NetworkFeatures",),
        "quality": ("EncoderQuality", "encoder_quality"),
        "ridge": ("ALPHAS", "Ridge", "fit_ridge"),
    },
)
