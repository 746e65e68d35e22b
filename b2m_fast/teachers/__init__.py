"""What a brain teaches with, made from a `b2m_fast.data.Brain`, and the controls that a claim for the brain must beat.

    similarity     images x rows: what the brain finds similar            `SimilarityTeacher`, `SimilarityTarget`
    population     trials of a task: rates, averages, pseudo-trials       `make_population`
    alignment      epochs and conditions of a recording and of a task     `align`
    latents        a few latents per condition and step                   `make_latents`, `LatentTeacher`
    responses      one row a sample, of an image or a condition           `condition_responses`, `image_responses`
    latent_controls, response_controls                                    functions of a teacher
    synthetic      simulated brains, whose truth is known                 the data set of that name

Names are loaded when they are first used, torch with them.
"""

from __future__ import annotations

from b2m_fast._lazy import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "alignment": ("Alignment", "align"),
        "latents": ("LatentTeacher", "make_latents"),
        "population": ("Population", "make_population"),
        "responses": (
            "ResponseTeacher",
            "SensoryModel",
            "condition_responses",
            "fit_sensory_model",
            "image_responses",
            "stand_in",
        ),
        "similarity": ("SimilarityTarget", "SimilarityTeacher"),
    },
)
