"""Which pseudo labels of whole images are reliable: numbers of a case, and which cases and classes they let pass.

* Instability over rounds of self-training: FLARE22's winner, Huang et al., "Revisiting nnU-Net for iterative pseudo labeling and
  efficient sliding window inference", FLARE22 at MICCAI 2022. Official code: Ziyan-Huang/FLARE22, `select.ipynb`.
* Confident share per class: Shanlata2/MedSAM2-SSL-TumorSeg, `validate_confidence.py` and the scripts that build its data sets.

NumPy, for whole images. Label maps are integers `(*spatial)` with 0 the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENT = 0.9  # official; a voxel's probability above which it is confident
KEEP_FROM = 0.8  # official; smallest confident share of a class


def changed_share(previous: np.ndarray, current: np.ndarray, ignore: Sequence[int] = ()) -> float:
    """`d = |{v: y_{r-1} != y_r}| / max(1, |{v: y_r > 0}|)`: voxels that changed since the round before, per foreground voxel now.

    Differs from the official code: the denominator is at least 1 (official: division by zero without foreground).

    Args:
        previous, current: label maps of one case.
        ignore: codes of voxels without a decision; a voxel that has one in either map does not count.

    Raises:
        ValueError: the maps have different shapes.
    """
    if previous.shape != current.shape:
        raise ValueError(f"label maps of one case must have one shape, got {previous.shape} and {current.shape}")
    decided = ~(np.isin(previous, list(ignore)) | np.isin(current, list(ignore)))
    changed = np.count_nonzero((previous != current) & decided)
    return changed / max(1, np.count_nonzero((current > 0) & decided))


def instability(changes: Sequence[float]) -> float:
    """`u = mean_{r=2..R} d_r` of the `changed_share` between the rounds of a case. ValueError without any."""
    if len(changes) == 0:
        raise ValueError("a case has no instability before its second round")
    return float(np.mean(np.asarray(changes, np.float64)))


def falling_order(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Indices by falling value, int64; of equal values the first comes first."""
    return np.argsort(-np.asarray(values, np.float64), kind="stable")


def largest(values: Mapping[str, float], share: float) -> list[str]:
    """The `round(share * N)` names with the largest values, largest first. FLARE22 dropped 76 of 2000 cases, 0.038.

    Raises:
        ValueError: a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), got {share}")
    names = sorted(values)
    order = falling_order([values[name] for name in names])
    return [names[index] for index in order[: round(share * len(names))]]


@dataclass(frozen=True)
class Confidence:
    """What a prediction says of each of K foreground classes (or regions).

    Attributes:
        voxels: predicted as the class, int64 `(K,)`.
        share: of these voxels, those whose probability is above the threshold, `(K,)`; 0 of a class without voxels.
        mean: their mean probability, `(K,)`; 0 of a class without voxels.
    """

    voxels: np.ndarray
    share: np.ndarray
    mean: np.ndarray


def predicted_foreground(probabilities: np.ndarray, activation: str = "softmax") -> np.ndarray:
    """bool `(K, *spatial)`: where each foreground class is the most probable one, or each region has p > 0.5.

    Args:
        probabilities: `(1 + K, *spatial)` with the background first, or `(K, *spatial)` of regions with "sigmoid".
    """
    if activation == "sigmoid":
        return probabilities > 0.5
    winner = probabilities.argmax(0)
    return np.stack([winner == index for index in range(1, len(probabilities))])


def class_confidence(
    probabilities: np.ndarray, activation: str = "softmax", threshold: float = CONFIDENT
) -> Confidence:
    """`c(y) = |{v in Omega: p(v) > threshold}| / |Omega|`, Omega the voxels predicted as the class.

    Computed in the precision of the probabilities, those of classes divided by their sum, as in the official code. Arguments as
    in `predicted_foreground`.
    """
    foreground = predicted_foreground(probabilities, activation)
    own = probabilities if activation == "sigmoid" else (probabilities / probabilities.sum(0))[1:]
    voxels = np.array([np.count_nonzero(where) for where in foreground], np.int64)
    confident = [np.count_nonzero(p[where] > threshold) for p, where in zip(own, foreground, strict=True)]
    mean = [p[where].mean() if where.any() else 0.0 for p, where in zip(own, foreground, strict=True)]
    return Confidence(voxels, np.asarray(confident) / np.maximum(voxels, 1), np.asarray(mean, np.float64))


def passes_gate(share: np.ndarray, keep_from: float = KEEP_FROM) -> np.ndarray:
    """bool: `share >= keep_from`, after rounding to four decimals as in the official code."""
    return np.round(share, 4) >= keep_from


def foreground_entropy(probabilities: np.ndarray, activation: str = "softmax", empty: float = 5.0) -> float:
    """Mean entropy in nats of the voxels predicted as foreground; `empty` where there is none (official: 5).

        softmax: -sum_c p_c ln(p_c + 1e-8);  sigmoid: the sum of the regions' binary entropies

    Precision and arguments as in `class_confidence`.
    """
    where = predicted_foreground(probabilities, activation).any(0)
    if not where.any():
        return empty
    p = probabilities[:, where]
    if activation == "sigmoid":
        summands = p * np.log(p + 1e-8) + (1 - p) * np.log(1 - p + 1e-8)
    else:
        p = p / p.sum(0)
        summands = p * np.log(p + 1e-8)
    return float(-np.mean(summands.sum(0)))


def uncertain_voxels(probabilities: np.ndarray, smallest: float, activation: str = "softmax") -> np.ndarray:
    """bool `(*spatial)`: `max_c p_c < smallest`; of regions, `max(p, 1 - p) < smallest` for any. Arguments as above."""
    if activation == "sigmoid":
        return np.maximum(probabilities, 1 - probabilities).min(0) < smallest
    return probabilities.max(0) < smallest
