"""One pseudo label from two teachers, and from the student where they disagree; and which of two teachers learns now.

Zhao, Wang, Wang, Yuan, Zhou, "Alternate Diverse Teaching for Semi-supervised Medical Image Segmentation", ECCV 2024,
arXiv:2311.17325 (AD-MT). Official code: ZhenZHAO/AD-MT.

Probabilities `(B, C, *spatial)`: C classes ("softmax") or regions ("sigmoid"). Labels as `hard_labels` gives them, confidences and
weights of their shape: one per voxel, or one per region. Nothing here has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_ssl.predictions.uncertainty import predictive_entropy


def entropy_in_bits(p: Tensor, activation: str = "softmax", eps: float = 1e-10) -> Tensor:
    """`predictive_entropy` with binary logarithms, as in the official code, whose exponential it enters."""
    return predictive_entropy(p.detach(), activation, eps) / math.log(2)


def weight_of_first(first_entropy: Tensor, second_entropy: Tensor) -> Tensor:
    """`e^{-H1} / (e^{-H1} + e^{-H2})`: the more certain teacher counts more."""
    return torch.sigmoid(second_entropy - first_entropy)


def entropy_weighted_mean(first: Tensor, second: Tensor, activation: str = "softmax") -> Tensor:
    """`a p1 + (1 - a) p2`, a: `weight_of_first` of both entropies.

    The official code sharpens it with a temperature of 1, that is not at all.
    """
    entropies = (entropy_in_bits(p, activation) for p in (first, second))
    return torch.lerp(second.detach(), first.detach(), weight_of_first(*entropies).expand_as(first))


def compromise(
    label: Tensor, confidence: Tensor, student_label: Tensor, student_confidence: Tensor, conflict: Tensor
) -> tuple[Tensor, Tensor]:
    """The student's label and confidence where the teachers disagree and the student is surer than their mean of another label.

    Args:
        label, confidence: of the teachers' mean.
        student_label, student_confidence: of the student.
        conflict: bool, where the teachers' labels differ.
    """
    taken = conflict & (student_label != label) & (student_confidence > confidence)
    return torch.where(taken, student_label, label), torch.where(taken, student_confidence, confidence)


class Alternation:
    """Which of two teachers is active: turns of a random number of steps, the first one's first. Kept in checkpoints.

    Args:
        draw: the length of the next turn in steps; called once now and at every change.

    Attributes:
        first: whether it is the first teacher's turn.
    """

    def __init__(self, draw: Callable[[], int]):
        self._draw = draw
        self.first = True
        self._done, self._length = 0, draw()

    def step(self) -> None:
        """Count a step, and change turns if it was the last one."""
        self._done += 1
        if self._done >= self._length:
            self.first, self._done, self._length = not self.first, 0, self._draw()

    def state_dict(self) -> dict:
        return {"first": self.first, "done": self._done, "length": self._length}

    def load_state_dict(self, state: dict) -> None:
        self.first, self._done, self._length = state["first"], state["done"], state["length"]
