"""Thresholds of confidence by label that follow the training."""

from __future__ import annotations

from torch import Tensor, nn
from torch import distributed as dist

from nnunet_ssl.engine.running_mean import RunningMean
from nnunet_ssl.predictions.label_confidence import above_thresholds, confidence_sums, number_of_labels, thresholds_of


class LabelThresholds(nn.Module):
    """`thresholds_of` a moving average of the mean confidence of each label; a label that never occurred has a mean of 1.

    Register it with `register_module(name, LabelThresholds(...), optimizer=None)`.

    Args:
        channels: of the logits, classes or regions.
        activation: "softmax" or "sigmoid".
        highest: threshold of the surest label.
        horizon: steps after which a step counts 1/e; at least 2.
        all_ranks: means are over the voxels of all processes, so that they hold the same thresholds; all of them call it.
    """

    def __init__(self, channels: int, activation: str, highest: float, horizon: float, all_ranks: bool = False):
        super().__init__()
        self.activation, self.highest, self.all_ranks = activation, highest, all_ranks
        self.count = number_of_labels(channels, activation)
        self.means = RunningMean((self.count,), 1 - 1 / max(2.0, horizon), 1.0)

    def forward(self, labels: Tensor, confidence: Tensor, inside: Tensor) -> Tensor:
        """Take the labels of a batch in; where they count, bool of their shape. Arguments as in `confidence_sums`."""
        sums = confidence_sums(labels, confidence, inside, self.count, self.activation)
        if self.all_ranks:
            dist.all_reduce(sums)
        thresholds = thresholds_of(self.means(sums[0] / sums[1]), self.highest)
        return above_thresholds(labels, confidence, thresholds, self.activation)
