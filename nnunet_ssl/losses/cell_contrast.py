"""Contrast of feature cells: what has one label is drawn together, what has another is pushed apart.

A cell is one voxel of a feature map, that is, a small block of voxels of the image (a "patch" in the paper). Embeddings are
`(B, N, D)` of length 1, N cells per sample; labels are `(B, N)`, any number of classes, in 2D and 3D alike. A label below 0
takes a cell out. Pairs are made within a sample. Everything is computed in float32 at least, whatever autocast is doing.

Assefa et al., "DyCON: Dynamic Uncertainty-aware Consistency and Contrastive Learning for Semi-supervised Medical Image
Segmentation", CVPR 2025, arXiv:2504.04566 (FeCL). Official code: KU-CVML/DyCON, `code/utils/dycon_losses.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32


def unit_embeddings(features: Tensor) -> Tensor:
    """Features `(B, D, *grid)` as embeddings of length 1, one per cell: `(B, N, D)`, N cells of the grid in its order."""
    return F.normalize(in_float32(features).flatten(2).transpose(1, 2), dim=-1)


def cell_labels(
    target: Tensor, channels: int, stride: Sequence[int], activation: str = "softmax", mask: Tensor | None = None
) -> Tensor:
    """The label of each cell: the class that most of the voxels around its center have, by linear interpolation.

    Regions: the set of regions that cover more than half of these voxels, as a number, so that cells are alike if they lie in
    the same regions.

    Args:
        target: class indices `(B, 1, *spatial)`, or 0/1 per region `(B, C, *spatial)` with activation "sigmoid".
        channels: C, classes or regions.
        stride: voxels per cell along each axis.
        activation: "softmax" for classes, "sigmoid" for regions.
        mask: voxels that count, `(B, 1, *spatial)` bool; None: all.

    Returns:
        `(B, N)` int64; -1 where most of the voxels do not count.

    Raises:
        ValueError: the target has another number of channels.
    """
    if target.shape[1] != (1 if activation == "softmax" else channels):
        raise ValueError(f"a target of {target.shape[1]} channels does not fit {channels} of activation {activation!r}")

    def maps() -> Iterator[Tensor]:  # one at a time: many classes at full resolution need much memory
        for c in range(channels):
            of_class = target == c if activation == "softmax" else target[:, c : c + 1]
            yield of_class if mask is None else of_class * mask
        if mask is not None:
            yield ~mask

    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(stride)]
    factors = [1 / s for s in stride]
    cells = torch.cat([F.interpolate(m.float(), scale_factor=factors, mode=mode).flatten(2) for m in maps()], 1)
    if activation == "softmax":
        labels = cells.argmax(1)
        return torch.where(labels == channels, -1, labels)
    covered = cells > 0.5
    bits = 2 ** torch.arange(channels, device=cells.device).view(-1, 1)
    labels = (covered[:, :channels] * bits).sum(1)
    return labels if mask is None else torch.where(covered[:, -1], -1, labels)


def choose_cells(cells: int, limit: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Indices of at most `limit` of the cells: all of them in order, or a random choice. The loss needs cells^2 memory."""
    if cells <= limit:
        return torch.arange(cells, device=device)
    return torch.randperm(cells, device=device, generator=generator)[:limit]


def _pairs(labels: Tensor, *embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells count `(B, N)`, and which pairs `(B, N, N)` of them have the same label (each with itself too), another one."""
    for embedding in embeddings:
        if embedding.ndim != 3 or embedding.shape[:2] != labels.shape or embedding.shape != embeddings[0].shape:
            raise ValueError(
                f"labels (B, N) and embeddings (B, N, D) do not fit: {tuple(labels.shape)}, "
                f"{', '.join(str(tuple(e.shape)) for e in embeddings)}"
            )
    counts = labels >= 0
    both = counts.unsqueeze(2) & counts.unsqueeze(1)
    same = labels.unsqueeze(2) == labels.unsqueeze(1)
    return counts, both & same, both & ~same


def _products(first: Tensor, second: Tensor) -> Tensor:
    """`first second^T` `(B, N, N)`, never in half precision."""
    with torch.autocast(first.device.type, enabled=False):
        return first @ second.transpose(1, 2)


def focal_contrast(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float = 0.6,
    gamma: float = 2.0,
    anchor_weights: Tensor | None = None,
    column_shift: bool = False,
) -> Tensor:
    """Supervised contrast in which pairs that are close already count less.

        G_ij = z_i z_j / temperature,    q_ij = e^G_ij / (e^G_ij + sum_{k: y_k != y_i} e^G_ik)
        L    = mean_i mean_{j != i: y_j = y_i} (1 - q_ij)^gamma (-ln q_ij)

    0 for an anchor without a partner, and for a sample of one class.

    Args:
        embeddings: z, `(B, N, D)`.
        labels: y, `(B, N)`.
        temperature: larger is softer.
        gamma: 0 (all pairs alike), or at least 1.
        anchor_weights: `(B, N)`, a factor of each anchor's mean; None: 1. (The paper's weighting by the entropy of a cell,
            which the released scripts leave off and use without the focal weights.)
        column_shift: as the released code, which subtracts max_i G_ij from G_ij to keep the exponential small. The maximum of
            the column belongs to another anchor, so it does not cancel and changes the value. False: max_j G_ij, which cancels.

    Raises:
        ValueError: shapes do not fit, or gamma is between 0 and 1.
    """
    if gamma != 0 and gamma < 1:
        raise ValueError(f"gamma must be 0 or at least 1, got {gamma}: the gradient has no limit at q = 1")
    counts, same, different = _pairs(labels, embeddings)
    others = ~torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    g = _products(embeddings, embeddings) / temperature * others
    e = (g - g.detach().amax(1 if column_shift else 2, keepdim=True)).exp()
    q = e / (e + (e * different).sum(2, keepdim=True) + 1e-18)
    losses = (1 - q) ** gamma * -(q + 1e-18).log()
    positive = same & others
    per_anchor = (losses * positive).sum(2) / positive.sum(2).clamp(min=1)
    if anchor_weights is not None:
        per_anchor = per_anchor * anchor_weights
    return per_anchor.sum() / counts.sum().clamp(min=1)


def hard_negatives(embeddings: Tensor, teacher_embeddings: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Pushes cells from the teacher's cells of another label that they are too similar to.

        L = mean -ln(1 - S_ij) over the pairs with y_i != y_j and S_ij = z_i z'_j > threshold;    0 without such a pair

    Args:
        embeddings: z, `(B, N, D)`.
        teacher_embeddings: z', `(B, N, D)`.
        labels: y, `(B, N)`, of both.
        threshold: of the cosine similarity.

    Raises:
        ValueError: shapes do not fit.
    """
    _, _, different = _pairs(labels, embeddings, teacher_embeddings)
    similarity = _products(embeddings, teacher_embeddings)
    hard = different & (similarity.detach() > threshold)
    # rounding can put a similarity at or above 1
    losses = -(1 - similarity).clamp(min=1e-6).log()
    return mean_where(losses, hard)
