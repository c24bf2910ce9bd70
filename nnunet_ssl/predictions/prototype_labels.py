"""Labels by the nearest class prototype in a network's feature space, and where hard predictions disagree with them.

The selection P-Err of AC-MT: Xu et al., "Ambiguity-selective consistency regularization for mean-teacher semi-supervised medical
image segmentation", Medical Image Analysis 2023; official code lemoshu/AC-MT, train_ACMT_PErr_3D.py (two classes; here any).
Each region is a problem of two classes, inside and outside.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32, most_probable


def as_two_classes(p: Tensor) -> Tensor:
    """Probabilities of one region `(B, 1, *spatial)` as those of two classes, outside and inside: `(B, 2, *spatial)`."""
    return torch.cat((1 - p, p), 1)


def pass_statistics(passes: Iterable[tuple[Tensor, Tensor]], temperature: float = 2.0) -> tuple[Tensor, Tensor]:
    """Deviation of the predictions and mean of the features over stochastic passes; only sums are kept.

        sigma = std_t sigmoid(logits_t / temperature)    (unbiased, per channel),    mean_t features_t

    Args:
        passes: logits `(B, C, *spatial)` and features `(B, D, *smaller)` of each pass; at least two passes.
        temperature: flattens the sigmoid.

    Returns:
        `(B, C, *spatial)` and `(B, D, *smaller)`, float32.

    Raises:
        ValueError: there are fewer than two passes.
    """
    count = 0
    mean = squares = features = torch.zeros(())
    for logits, f in passes:
        p = torch.sigmoid(in_float32(logits) / temperature)
        count += 1
        change = p - mean
        mean = mean + change / count
        squares = squares + change * (p - mean)
        features = features + in_float32(f)
    if count < 2:
        raise ValueError(f"a deviation needs at least two passes, got {count}")
    return (squares / (count - 1)).sqrt(), features / count


def resized(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Features `(B, D, *smaller)` at the resolution `size`, bi- or trilinear."""
    return F.interpolate(features, size=tuple(size), mode={1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)])


def rectified_labels(p: Tensor, deviation: Tensor, limit: float = 0.1) -> Tensor:
    """`argmax_c p_c [sigma_c < limit]`: the most probable of the certain classes, 0 where none is. `(B, *spatial)`.

    Args:
        p: probabilities `(B, C, *spatial)`.
        deviation: sigma, of p's shape.
        limit: largest deviation that counts as certain.
    """
    return most_probable(p * (deviation < limit))[:, 0]


def class_prototypes(
    features: Tensor, labels: Tensor, p: Tensor, mask: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Mean feature of each class of each sample, weighted by confidence.

        q_k = sum_v f_v [r_v = k] p_kv / (sum_v [r_v = k] p_kv + eps)

    Args:
        features: f `(B, D, *spatial)`.
        labels: r `(B, *spatial)`.
        p: probabilities `(B, C, *spatial)`.
        mask: voxels that count, `(B, 1, *spatial)` bool; None: all.

    Returns:
        `(B, C, D)`; 0 for a class that does not occur.
    """
    prototypes = []
    for k in range(p.shape[1]):
        weight = p[:, k : k + 1] * (labels == k).unsqueeze(1)
        if mask is not None:
            weight = weight * mask
        prototypes.append((features * weight).flatten(2).sum(2) / (weight.flatten(2).sum(2) + eps))
    return torch.stack(prototypes, 1)


def prototype_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    """Squared Euclidean distance of each voxel's feature `(B, D, *spatial)` to each prototype `(B, C, D)`: `(B, C, *spatial)`."""
    ones = (1,) * (features.ndim - 2)
    return torch.stack([((features - q.unflatten(1, (-1, *ones))) ** 2).sum(1) for q in prototypes.unbind(1)], 1)


def nearest_prototype(distances: Tensor, present: Tensor | None = None) -> Tensor:
    """One-hot `(B, C, *spatial)` bool of the nearest prototype; a tie selects none.

    Args:
        distances: `(B, C, *spatial)`.
        present: `(B, C)` bool, classes that have a prototype; None: all.
    """
    if present is not None:
        distances = distances.masked_fill(~present.view(*present.shape, *(1,) * (distances.ndim - 2)), torch.inf)
    nearest = distances == distances.amin(1, keepdim=True)
    return nearest & (nearest.sum(1, keepdim=True) == 1)


def disagreement(student_p: Tensor, nearest: Tensor) -> Tensor:
    """Where the student's one-hot argmax differs from `nearest`, per channel: `(B, C, *spatial)` bool.

    A voxel with another class is selected in two channels, that of the student and that of the prototype.
    """
    classes = torch.arange(student_p.shape[1], device=student_p.device).view(-1, *(1,) * (student_p.ndim - 2))
    return (most_probable(student_p) == classes) != nearest


def prototype_disagreement(
    student_p: Tensor,
    teacher_p: Tensor,
    deviation: Tensor,
    features: Tensor,
    activation: str = "softmax",
    limit: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """Where the student's label is not that of the nearest prototype: all steps from the teacher's features to the selection.

    Args:
        student_p: probabilities `(B, C, *spatial)`.
        teacher_p: probabilities `(B, C, *spatial)` for the same images.
        deviation: `(B, C, *spatial)`, of `pass_statistics`.
        features: `(B, D, *smaller)`, of `pass_statistics`.
        activation: "softmax", or "sigmoid": each region is a problem of its own, inside against outside.
        limit: largest deviation that counts as certain.
        mask: voxels that count for the prototypes, `(B, 1, *spatial)` bool; None: all.

    Returns:
        `(B, C, *spatial)` bool.
    """
    features = resized(features, student_p.shape[2:])

    def selected(student: Tensor, teacher: Tensor, sigma: Tensor) -> Tensor:
        labels = rectified_labels(teacher, sigma, limit)
        prototypes = class_prototypes(features, labels, teacher, mask)
        classes = torch.arange(teacher.shape[1], device=labels.device)
        counted = labels if mask is None else labels.masked_fill(~mask.squeeze(1), -1)
        present = (counted.flatten(1).unsqueeze(1) == classes.view(-1, 1)).any(2)
        return disagreement(student, nearest_prototype(prototype_distances(features, prototypes), present))

    student_p = student_p.detach()
    if activation == "softmax":
        return selected(student_p, teacher_p, deviation)
    regions = zip(student_p.split(1, 1), teacher_p.split(1, 1), deviation.split(1, 1), strict=True)
    return torch.cat([selected(as_two_classes(s), as_two_classes(t), d)[:, 1:] for s, t, d in regions], 1)
