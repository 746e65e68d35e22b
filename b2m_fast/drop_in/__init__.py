"""Losses under the names and signatures that other packages made common, computed by our ops.

Change the import and nothing else:

    from open_clip.loss import ClipLoss, SigLipLoss    ->  from b2m_fast.drop_in import ...
    from info_nce import InfoNCE, info_nce             ->  from b2m_fast.drop_in import ...

Single process for now: a world_size above 1 is an error, not a silently local loss.
"""

from .info_nce_pytorch import InfoNCE, info_nce
from .open_clip import ClipLoss, SigLipLoss

__all__ = ["ClipLoss", "InfoNCE", "SigLipLoss", "info_nce"]
