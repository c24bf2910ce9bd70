"""sdcl.npz: where two students disagree, and both corrective losses on a mix of labels and pseudo labels."""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ssl.losses.discrepancy_correction import correction_loss, doubt_loss
from nnunet_ssl.losses.mutual_correction import disagreement
from nnunet_ssl.patches.mixing import copy_paste
from tests.golden.framework import GoldenFile

TRAINER = "nnUNetTrainerSDCL"
USES = (
    "nnunet_ssl.losses.discrepancy_correction.correction_loss",
    "nnunet_ssl.losses.discrepancy_correction.doubt_loss",
    "nnunet_ssl.losses.mutual_correction.disagreement",
    "nnunet_ssl.patches.mixing.copy_paste",
)
REFERENCE_ONLY = {}


def _weights(file: GoldenFile, mask: torch.Tensor, unlabeled_inside: bool) -> torch.Tensor:
    """Weight of each voxel; the pseudo labels are those inside of the box in the second of both mixes."""
    label, pseudo = (file.constant(f"{x}_weight", "correction") for x in "lu")
    inside, outside = (pseudo, label) if unlabeled_inside else (label, pseudo)
    return copy_paste(torch.as_tensor(inside).expand(mask.shape), torch.as_tensor(outside).expand(mask.shape), mask)


def adapt(file: GoldenFile) -> dict[str, Any]:
    first, second = (file.tensor(f"correction/in/logits{i}") for i in (1, 2))
    mask = file.tensor("correction/in/mask")[:, None].bool()
    inside, outside = (file.tensor(f"correction/in/label_{x}")[:, None] for x in ("inside", "outside"))
    target, differ = copy_paste(inside, outside, mask), disagreement(first, second)
    produced = {"correction/out/disagreement": differ[:, 0]}
    for i in range(2):
        weights = _weights(file, mask, unlabeled_inside=bool(i))
        produced[f"correction/out/mse_unlab{i}"] = correction_loss(first, target, differ, weights)
        produced[f"correction/out/kl_unlab{i}"] = doubt_loss(first, target, differ, weights)
    return produced
