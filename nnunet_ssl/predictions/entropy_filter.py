"""Which unlabeled images a network is still uncertain about: the filter of nnFilterMatch.

Official code: Ordi117/nnFilterMatch, `nnUNetTrainer_nnfiltermatch.py`, `filter_unlabeled_dataset_by_entropy`. NumPy, for
whole images between epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def case_entropy(
    probabilities: np.ndarray, activation: str = "softmax", reduction: str = "mean", eps: float = 1e-8
) -> float:
    """Entropy of the prediction of one image.

        softmax: H = mean_v -sum_c p_c ln(p_c + eps)
        sigmoid: H = mean_v -sum_c [p_c ln(p_c + eps) + (1 - p_c) ln(1 - p_c + eps)]

    Args:
        probabilities: p, `(C, *spatial)`; classes, or regions with "sigmoid".
        activation: what gave the probabilities.
        reduction: "mean" over voxels; "sum" as in the official code, which grows with the size of the image.
        eps: keeps the logarithm finite.

    Raises:
        ValueError: unknown activation or reduction.
    """
    if activation not in ("softmax", "sigmoid") or reduction not in ("mean", "sum"):
        raise ValueError(
            f"activation must be 'softmax' or 'sigmoid' and reduction 'mean' or 'sum', got {activation!r}, {reduction!r}"
        )
    p = probabilities
    summands = p * np.log(p + eps)
    if activation == "sigmoid":
        summands += (1 - p) * np.log(1 - p + eps)
    entropy = -np.sum(summands, axis=0)
    return float(np.sum(entropy)) if reduction == "sum" else float(np.mean(entropy, dtype=np.float64))


def entropy_threshold(entropies: Sequence[float] | np.ndarray, percentile: float = 15.0) -> float:
    """The `percentile`-th percentile of the entropies, linear between neighbors.

    Raises:
        ValueError: no entropy, or a percentile outside [0, 100].
    """
    if len(entropies) == 0 or not 0 <= percentile <= 100:
        raise ValueError(
            f"need at least one entropy and a percentile in [0, 100], got {len(entropies)} and {percentile}"
        )
    return float(np.percentile(np.asarray(entropies, dtype=np.float64), percentile))


def is_uncertain(entropies: Sequence[float] | np.ndarray, percentile: float = 15.0) -> np.ndarray:
    """`H_i >= entropy_threshold(H, percentile)` `(N,)` bool: all but the images that the network finds easiest.

    At least one is True. Arguments and errors are those of `entropy_threshold`.
    """
    return np.asarray(entropies, dtype=np.float64) >= entropy_threshold(entropies, percentile)


def uncertain_cases(entropies: Mapping[str, float], percentile: float = 15.0) -> list[str]:
    """The cases that stay in the pool, sorted: those for which `is_uncertain` holds."""
    kept = is_uncertain(list(entropies.values()), percentile)
    return sorted(case for case, keep in zip(entropies, kept, strict=True) if keep)
