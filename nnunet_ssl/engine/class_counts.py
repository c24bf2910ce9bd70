"""What a network has learned of each class, from its hard decisions on labeled patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn
from torch import Tensor, nn

from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.predictions.hard_labels import hard_labels


class ClassCounts(nn.Module):
    """True positive, false positive and false negative voxels per foreground class, old steps counting ever less.

    Register it with `register_module(name, ClassCounts(...), optimizer=None)`, so that it is kept in checkpoints.

    Args:
        classes: foreground classes, or regions.
        horizon: steps after which a count has 1/e of its weight.
    """

    def __init__(self, classes: int, horizon: float):
        super().__init__()
        self.decay = math.exp(-1 / max(horizon, 1.0))
        self.register_buffer("counts", torch.zeros(3, classes, dtype=torch.float32))

    @torch.no_grad()
    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        annotated: Tensor | None,
        activation: str = "softmax",
    ) -> None:
        """Count a batch; nothing waits for the device.

        Args:
            logits: `(L, C, *spatial)`.
            target: classes `(L, 1, *spatial)` or regions `(L, C, *spatial)`, without the ignore label.
            mask: bool `(L, 1, *spatial)`, voxels that count; None: all.
            annotated: bool `(L, K)`, the classes that count in each patch; None: all.
        """
        predicted = one_hot(hard_labels(logits, activation), logits.shape[1], activation)
        counts = torch.stack(get_tp_fp_fn_tn(predicted, target, tuple(range(2, target.ndim)), mask)[:3])
        counts = counts[:, :, 1:] if activation == "softmax" else counts
        if annotated is not None:
            counts = torch.where(annotated, counts, 0)
        self.counts.mul_(self.decay).add_(counts.sum(1))

    def f1(self, counts: Tensor | None = None) -> list[float]:
        """`2 tp / (2 tp + fp + fn)` of each class; NaN where neither labels nor predictions had it. Waits for the device.

        Args:
            counts: `(3, K)`, such as a sum over processes; None: those of this one.
        """
        tp, fp, fn = (self.counts if counts is None else counts).cpu().double()
        return (2 * tp / (2 * tp + fp + fn)).tolist()


def is_competent(f1: Sequence[float], smallest: float) -> bool:
    """Whether every class has at least this F1; a class that never occurred is not judged, and without any judged class: no."""
    judged = [value for value in f1 if not math.isnan(value)]
    return bool(judged) and min(judged) >= smallest
