"""What LiheYoung/UniMatch, UniMatch-V2 and BBBBchan/CorrMatch have and our trainer has otherwise, as reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 255


def annotated_cross_entropy(logits: Tensor, target: Tensor, ignored: int = PADDING) -> Tensor:
    """Cross entropy of logits `(B, C, *spatial)`, a mean over the voxels of `(B, *spatial)` with another label than `ignored`."""
    return F.cross_entropy(logits.float(), target.long(), ignore_index=ignored)


def is_image(ignore: Tensor, padding: int = PADDING) -> Tensor:
    """Which voxels are no padding, bool."""
    return ignore != padding


def everywhere(mask: Tensor) -> Tensor:
    """True for every voxel of a mask."""
    return torch.ones_like(mask, dtype=torch.bool)


def without(mask: Tensor) -> Tensor:
    """Which voxels a mask of 0 and 1 does not have, bool."""
    return mask == 0


def at_least(values: Tensor, threshold: float) -> Tensor:
    return values >= threshold


def drawn_channels(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Of complementary channel masks `(2 U, F)` what was drawn: the doubled channels of view 1, and the samples that are kept."""
    first = masks.chunk(2)[0]
    return first > 1, (first == 1).all(1)


def adaptive_threshold(start: float, batches: Sequence[Tensor], image: Tensor, momentum: float) -> list[float]:
    """CorrMatch: the threshold after each batch of probabilities `(B, C, *spatial)`, in float32 as there.

    `t <- m t + (1 - m) mean_k max_v p_kv` over the classes k that are predicted in the batch, in the voxels of `image`, bool
    `(B, *spatial)`; t stays where there are none. The sum over k is in the official order, which single precision shows.
    """
    found, now = [], torch.tensor(start)
    for p in batches:
        confidence, label = (values[image] for values in p.max(1))
        largest = [confidence[label == k].max() for k in label.unique()]
        if largest:
            now = momentum * now + (1 - momentum) * (sum(largest) / len(largest))
        found.append(now.item())
    return found
