"""Boxes as bags of pixels: a line of a box has a pixel of the object, a line outside has none.

Hsu et al., NeurIPS 2019 (BBTP); Wang & Xia, "Bounding Box Tightness Prior for Weakly Supervised Image Segmentation", MICCAI 2021,
arXiv:2110.00934. Official code: chengchunhsu/WSIS_BBTP, wangjuan313/wsis-boundingbox. Probabilities are `(B, C, *spatial)` of
objects that do not exclude each other (sigmoid); boxes are rows as in `nnunet_ssl.patches.boxes`.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32
from tests.golden.reference.boxes import fill_boxes


def bag_scores(p: Tensor, axis: int, kind: str = "max", power: float = 4.0, weights: Tensor | None = None) -> Tensor:
    """The largest probability of each line along an axis, exact or smooth.

        "max":      max_v p_v
        "gm":       (sum_v w p^a / sum_v w)^(1/a)                     generalized mean
        "expsumr":  sum_v w p e^(a p) / sum_v w e^(a p)               alpha-softmax
        "explogs":  ln(sum_v w e^(a p)) / a - ln(sum_v w) / a         alpha-quasimax

    Args:
        p: `(*spatial)` or with more axes in front.
        axis: that is reduced.
        kind: one of the above.
        power: a.
        weights: w, 1 for pixels that count and 0 for others, of the shape of p; all if None.

    Raises:
        ValueError: unknown kind.
    """
    weights = torch.ones_like(p) if weights is None else weights.to(p.dtype)
    if kind == "max":
        return (p * weights).amax(axis)
    if kind == "gm":
        return (p**power * weights).sum(axis).div(weights.sum(axis)) ** (1 / power)
    exponential = torch.exp(power * p) * weights
    if kind == "expsumr":
        return (p * exponential).sum(axis) / exponential.sum(axis)
    if kind == "explogs":
        return (exponential.sum(axis).log() - weights.sum(axis).log()) / power
    raise ValueError(f"kind must be 'max', 'gm', 'expsumr' or 'explogs', got {kind!r}")


def bag_loss(
    p: Tensor,
    boxes: Tensor,
    mode: str = "all",
    kind: str = "max",
    power: float = 4.0,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    eps: float = 1e-6,
) -> Tensor:
    """Cross entropy of bags, per channel `(C,)`. s: scores of positive bags (lines of the boxes), r: of negative ones.

        "all":      (sum -ln s + sum -ln(1 - r)) / (number of bags),    r: lines of the image, boxes left out
        "balance":  (mean -ln s + mean -ln(1 - r)) / 2
        "focal":    (sum alpha (1 - s)^gamma -ln s + sum_v (1 - alpha) p_v^gamma -ln(1 - p_v)) / (number of positive bags),
                    v: pixels outside the boxes

    A channel without boxes has the negative part alone.

    Args:
        p: `(B, C, *spatial)`.
        boxes: rows `(n, 2 + 2 d)`.
        mode: one of the above.
        kind, power: see `bag_scores`.
        alpha, gamma: of the focal form.
        eps: probabilities and scores are kept in [eps, 1 - eps].

    Raises:
        ValueError: unknown mode or kind.
    """
    if mode not in ("all", "balance", "focal"):
        raise ValueError(f"mode must be 'all', 'balance' or 'focal', got {mode!r}")
    p = in_float32(p).clamp(eps, 1 - eps)
    outside = ~fill_boxes(boxes, p.shape).to(p.device)
    axes, losses = range(p.ndim - 2), []
    for channel in range(p.shape[1]):
        positive = []
        for item, of_channel, *box in boxes.tolist():
            if of_channel == channel:
                d = len(box) // 2
                inside = p[(item, channel, *(slice(a, b) for a, b in zip(box[:d], box[d:])))]
                positive += [bag_scores(inside, axis, kind, power).flatten() for axis in axes]
        found = torch.cat(positive).clamp(eps, 1 - eps) if positive else p.new_zeros(0)
        if mode == "focal":
            q = p[:, channel][outside[:, channel]]
            negative = -(1 - alpha) * q**gamma * torch.log(1 - q)
            of_bags = -alpha * (1 - found) ** gamma * torch.log(found)
            losses.append((negative.sum() + of_bags.sum()) / max(len(found), 1))
            continue
        scores = []
        for axis in range(1, p.ndim - 1):
            bags = bag_scores(p[:, channel], axis, kind, power, outside[:, channel])
            # a line without a pixel outside has no smooth maximum; officially it counts with the exact one, 0
            scores.append(bags[outside[:, channel].any(axis) | (kind == "max")])
        negative, of_bags = -torch.log((1 - torch.cat(scores)).clamp(eps, 1 - eps)), -torch.log(found)
        if mode == "all" or not positive:
            losses.append((negative.sum() + of_bags.sum()) / (len(negative) + len(of_bags)))
        else:
            losses.append((negative.mean() + of_bags.mean()) / 2)
    return torch.stack(losses)


def pairwise_smoothness(p: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference to the neighbors (8 in 2D, 26 in 3D), per channel `(C,)`. Beyond the edge p is 0.

    Args:
        p: `(B, C, *spatial)`.
        mask: of the shape of p, whose pixels count; all if None.
    """
    d = p.ndim - 2
    padded = F.pad(p, (1, 1) * d)
    total = torch.zeros_like(p)
    shifts = [shift for shift in product((0, 1, 2), repeat=d) if shift != (1,) * d]
    for shift in shifts:
        neighbor = padded
        for axis, start in enumerate(shift, start=2):
            neighbor = neighbor.narrow(axis, start, p.shape[axis])
        total = total + (p - neighbor) ** 2
    mask = torch.ones_like(p) if mask is None else mask.to(p.dtype)
    axes = [axis for axis in range(p.ndim) if axis != 1]
    return (total * mask).sum(axes) / (len(shifts) * mask.sum(axes).clamp(min=1e-6))
