"""Losses of a discriminator that says which maps belong to labeled images, and of the network whose maps of unlabeled ones pass.

Zhang et al., "Deep Adversarial Networks for Biomedical Image Segmentation Utilizing Unannotated Images", MICCAI 2017, in the form
of HiLab-git/SSL4MIS (`train_adversarial_network_2D.py`). Logits `(B, 2)`: class 1 is labeled, class 0 unlabeled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32


def origins(labeled: int, unlabeled: int, device: torch.device | str | None = None) -> Tensor:
    """1 for each labeled image, then 0 for each unlabeled one, int64 `(labeled + unlabeled,)`."""
    return (torch.arange(labeled + unlabeled, device=device) < labeled).long()


def origin_loss(logits: Tensor, labeled: int) -> Tensor:
    """The discriminator's loss: mean cross entropy, the first `labeled` of the images `(B, 2)` being labeled."""
    return F.cross_entropy(in_float32(logits), origins(labeled, len(logits) - labeled, logits.device))


def passing_loss(logits: Tensor) -> Tensor:
    """The network's loss: mean cross entropy of maps of unlabeled images, `(U, 2)`, against the class of labeled ones."""
    return F.cross_entropy(in_float32(logits), origins(len(logits), 0, logits.device))
