"""Confident learning: which labels disagree with predicted probabilities more than label noise explains.

Northcutt, Jiang & Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021. The selection is that of
`cleanlab.filter.find_label_issues`, here on the device of the tensors and without waiting for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.predictions.probabilities import most_probable
from nnunet_ssl.predictions.prototype_labels import as_two_classes

RULES = ("both", "prune_by_class", "prune_by_noise_rate")


def _round_rows(matrix: Tensor) -> Tensor:
    """Rounded to integers such that each row keeps its (rounded) sum: the entries farthest off are moved by one."""
    rounded = matrix.round()
    missing = (matrix.sum(1).round() - rounded.sum(1)).unsqueeze(1)
    rest = matrix - rounded
    # rank 0: the entry that most wants to move in the direction of what is missing
    rank = (-missing.sign() * rest).argsort(dim=1, stable=True).argsort(dim=1)
    return rounded + missing.sign() * (rank < missing.abs())


def confident_joint(labels: Tensor, p: Tensor) -> Tensor:
    """How many samples with label s truly belong to class y, as estimated: `(K, K)` whole numbers in float64.

    A sample is confident in class k if `p_k >= t_k - 1e-6`, t_k: mean of p_k over the samples with label k. Its true class is
    guessed to be that class, the most probable one if there are several, and it is left out if there is none. The counts
    J[s, y], with at least 1 on the diagonal, are scaled so that row s sums to the number of samples with label s.

    Args:
        labels: `(N,)` integers; those outside 0..K-1 do not count.
        p: probabilities `(N, K)`.
    """
    classes = torch.arange(p.shape[1], device=p.device)
    given = labels.unsqueeze(1) == classes
    counts = given.sum(0)
    means = torch.where(given, p, p.new_zeros(())).sum(0, dtype=torch.float64) / counts
    thresholds = torch.where(counts > 0, means, 2.0)  # 2: no probability reaches it
    confident = p >= thresholds - 1e-6
    several = confident.sum(1) > 1
    guess = torch.where(several, p.argmax(1), confident.int().argmax(1))
    counted = confident.any(1) & given.any(1)
    k = len(classes)
    cell = torch.where(counted, labels.long() * k + guess, k * k)
    joint = torch.zeros(k * k + 1, dtype=torch.int64, device=p.device).scatter_add_(0, cell, torch.ones_like(cell))
    joint = joint[:-1].view(k, k).double()
    diagonal = torch.eye(k, dtype=torch.bool, device=p.device)
    joint = torch.where(diagonal, joint.clamp(min=1), joint)
    joint = joint / joint.sum(1, keepdim=True) * counts.unsqueeze(1)
    joint = joint / joint.sum().clamp(min=1) * counts.sum()
    return _round_rows(joint)


def _smallest(scores: Tensor, among: Tensor, number: Tensor, total: Tensor) -> Tensor:
    """The `number` smallest scores among those where `among`, ties at the limit left out."""
    candidates = scores.masked_fill(~among, torch.inf).sort().values
    index = torch.minimum(number, total - 1).clamp(min=0).long().view(1)
    return among & (scores < candidates.gather(0, index)) & (total > 1)


def label_issues(labels: Tensor, p: Tensor, rule: str = "both") -> Tensor:
    """Samples whose label is suspected to be wrong, `(N,)` bool, without a gradient.

    By class: of the samples with label s the `N_s - J[s, s]` of smallest p_s. By noise rate: of the samples with label s, for
    each y, the `J[s, y]` of largest p_y - p_s. Both: flagged by both. J: `confident_joint`. A sample whose label is its most
    probable class is never flagged, nor is the only sample with a label.

    Args:
        labels: `(N,)` integers; samples with labels outside 0..K-1 do not count and are not flagged.
        p: probabilities `(N, K)`.
        rule: one of `RULES`. All are the same for two classes.

    Raises:
        ValueError: unknown rule, or the shapes do not fit.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    if p.ndim != 2 or labels.shape != p.shape[:1]:
        raise ValueError(
            f"labels must be (N,) and probabilities (N, K), got {tuple(labels.shape)} and {tuple(p.shape)}"
        )
    p = p.detach()
    joint = confident_joint(labels, p)
    by_class = torch.zeros_like(labels, dtype=torch.bool)
    by_noise_rate = by_class.clone()
    for s in range(p.shape[1]):
        among = labels == s
        total = among.sum()
        if rule != "prune_by_noise_rate":
            by_class |= _smallest(p[:, s], among, total - joint[s, s], total)
        if rule != "prune_by_class":
            for y in range(p.shape[1]):
                if y != s:
                    by_noise_rate |= _smallest(p[:, s] - p[:, y], among, joint[s, y], total)
    flagged = {
        "both": by_class & by_noise_rate,
        "prune_by_class": by_class,
        "prune_by_noise_rate": by_noise_rate,
    }[rule]
    return flagged & (p.argmax(1) != labels)


def voxel_label_issues(
    student_p: Tensor, teacher_p: Tensor, rule: str = "both", mask: Tensor | None = None, activation: str = "softmax"
) -> Tensor:
    """`label_issues` of the student's hard labels under the teacher's probabilities, over all voxels of the batch together.

    The selection S-Err of AC-MT, Xu et al., Medical Image Analysis 2023. Each region is a problem of its own: inside, outside.

    Args:
        student_p: probabilities `(B, C, *spatial)`; the argmax (p > 0.5 of regions) is the label.
        teacher_p: probabilities `(B, C, *spatial)`.
        rule: see `label_issues`.
        mask: voxels that count, `(B, 1, *spatial)` bool; None: all.
        activation: "softmax", or "sigmoid" for regions.

    Returns:
        bool, `(B, 1, *spatial)`, or `(B, C, *spatial)` of regions.
    """
    if activation == "sigmoid":
        regions = zip(student_p.split(1, 1), teacher_p.split(1, 1), strict=True)
        return torch.cat([voxel_label_issues(as_two_classes(s), as_two_classes(t), rule, mask) for s, t in regions], 1)
    labels = most_probable(student_p)[:, 0]
    if mask is not None:
        labels = labels.masked_fill(~mask.squeeze(1), -1)
    flat = teacher_p.movedim(1, -1).flatten(0, -2)
    return label_issues(labels.flatten(), flat, rule).view(labels.shape).unsqueeze(1)
