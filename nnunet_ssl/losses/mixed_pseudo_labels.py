"""Pseudo labels mixed from the predictions of two decoders, and the losses that teach both decoders the mixture.

Hard labels and Dice: Luo et al., "Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and Dynamically Mixed
Pseudo Labels Supervision", MICCAI 2022, arXiv:2203.02106 (DMPLS; HiLab-git/WSL4MIS). Soft labels and cross entropy: Han et al.,
"DMSPS: Dynamically mixed soft pseudo-label supervision ...", Medical Image Analysis 2024 (HiLab-git/PyMIC).

Logits and probabilities are `(B, C, *spatial)` in 2D or 3D: C classes (activation "softmax", background included) or regions
("sigmoid"). Mixtures never carry a gradient; logarithms and sums over voxels are in float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import masked_dice_loss
from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.probabilities import in_float32, most_probable, probabilities


@torch.no_grad()
def mixed_probabilities(first: Tensor, second: Tensor, beta: Tensor, activation: str = "softmax") -> Tensor:
    """`beta p_1 + (1 - beta) p_2`: the soft label of two decoders, `(B, C, *spatial)`, without a gradient.

    Args:
        first, second: logits of the two decoders on the same images, `(B, C, *spatial)`.
        beta: share of the first decoder, a scalar tensor in [0, 1]: as a number it would make torch.compile compile again for
            every new value. The official code adds 1e-10, which float32 does not see.
        activation: "softmax", or "sigmoid" for regions.

    Raises:
        ValueError: shapes differ, or an unknown activation.
    """
    if first.shape != second.shape:
        raise ValueError(f"both decoders must give one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    p, q = probabilities(first, activation), probabilities(second, activation)
    return torch.lerp(q, p, beta.to(p))


def hard_mixture(mixed: Tensor, activation: str = "softmax") -> Tensor:
    """The hard label of mixed probabilities, in the form of nnU-Net's targets.

    "softmax": the most probable class, int64 `(B, 1, *spatial)`. "sigmoid": regions above 0.5, bool `(B, C, *spatial)`.
    """
    return most_probable(mixed) if activation == "softmax" else mixed > 0.5


def pseudo_dice(
    logits: Tensor,
    label: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    squared: bool = True,
    all_ranks: bool = False,
) -> Tensor:
    """Dice loss of a hard pseudo label, over the whole batch, mean over all classes, background included: pDice of DMPLS.

        L = mean_c [1 - (2 sum_{n,v} M p y + 1e-5) / (sum_{n,v} M (p^2 + y^2) + 1e-5)]

    The released loss multiplies its mask of shape (B, 1, *spatial) with (B, *spatial), so that every sample is masked by all; with
    nothing masked, as there, this makes no difference.

    Args:
        logits: of one scale, `(B, C, *spatial)`.
        label: y as `hard_mixture` gives it; of another resolution: resized by nearest neighbor.
        mask: M, `(B, 1, *any spatial)` bool, voxels that count; resized too. None: all.
        squared: False: p + y in the denominator, as PyMIC's DMPLS.
        all_ranks: sums go over the batches of all processes.

    Raises:
        ValueError: label or mask do not fit the logits.
    """
    size = logits.shape[2:]
    return masked_dice_loss(
        logits,
        resize_nearest(label, size),
        None if mask is None else resize_nearest(mask, size),
        activation,
        batch=True,
        squared=squared,
        all_ranks=all_ranks,
    )


def soft_cross_entropy(
    logits: Tensor,
    soft: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    double_softmax: bool = False,
) -> Tensor:
    """Cross entropy with a soft pseudo label: the regularizer of DMSPS.

        softmax: L = mean_{n,v} -sum_c s_c ln p_c
        sigmoid: L = mean_{n,c,v} -s_c ln p_c - (1 - s_c) ln(1 - p_c)

    Args:
        logits: of one scale, `(B, C, *spatial)`; p is their softmax or sigmoid.
        soft: s, `(B, C, *any spatial)`, detached here; of a higher resolution: averaged over the voxels of the scale's.
        activation: "softmax", or "sigmoid" for regions.
        mask: `(B, 1, *any spatial)` bool, voxels that count; resized by nearest neighbor. None: all.
        double_softmax: the softmax of the softmax in place of p, as PyMIC has it: the loss is handed probabilities and takes
            them for logits. It keeps p away from 0 and 1 (two classes: 0.27 to 0.73). For classes only.

    Raises:
        ValueError: shapes that do not fit, an unknown activation, or `double_softmax` of regions.
    """
    if soft.shape[:2] != logits.shape[:2] or soft.ndim != logits.ndim:
        raise ValueError(f"soft labels of shape {tuple(soft.shape)} do not fit logits of shape {tuple(logits.shape)}")
    size = logits.shape[2:]
    soft, logits = _averaged(soft.detach(), size), in_float32(logits)
    if activation == "softmax":
        logits = torch.softmax(logits, dim=1) if double_softmax else logits
        values = -(soft * F.log_softmax(logits, dim=1)).sum(1, keepdim=True)
    elif activation == "sigmoid" and not double_softmax:
        values = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    else:
        raise ValueError(f"activation must be 'softmax', or 'sigmoid' without double_softmax, got {activation!r}")
    return mean_where(values, None if mask is None else resize_nearest(mask, size))


def _averaged(soft: Tensor, size: Sequence[int]) -> Tensor:
    """Probabilities at a lower resolution; the mean over voxels keeps them a distribution."""
    return soft if soft.shape[2:] == tuple(size) else F.interpolate(soft, tuple(size), mode="area")
