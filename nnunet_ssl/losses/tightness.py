"""The tightness prior of bounding boxes: every line through a box has to meet the object.

Sources: see `nnunet_ssl.patches.boxes`; the projections are those of Zhai et al., "PA-Seg", IEEE TMI 2023, arXiv:2208.05669.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.size import extended_log_barrier
from nnunet_ssl.patches.boxes import box_sums


def tightness_loss(
    p: Tensor, strips: Tensor, bounds: Tensor, *, t: float | None = None, reduction: str = "mean"
) -> Tensor:
    """`psi_t(b_s - sum_{v in s} p_v)`, or `max(0, b_s - sum_{v in s} p_v)` without t, over the strips s. 0 without strips.

    Args:
        p: probabilities `(B, C, *spatial)`.
        strips: rows of boxes `(n, 2 + 2 d)`, see `nnunet_ssl.patches.boxes`.
        bounds: b, voxels of the object that each strip has at least, `(n,)`.
        t: steepness of the log barrier; None: hinge.
        reduction: "mean" over the strips; official code: "sum".

    Raises:
        ValueError: unknown reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    z = bounds - box_sums(p, strips)
    total = (F.relu(z) if t is None else extended_log_barrier(z, t)).sum()
    return total / max(len(strips), 1) if reduction == "mean" else total
