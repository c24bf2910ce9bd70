"""ict.npz: a step of interpolation consistency training, SSL4MIS in 2D and 3D."""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import symmetric_mse
from nnunet_ssl.patches.mixing import blend, halves
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.adapters._common import ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.mixup import confirmed_shares
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerICT"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.consistency.symmetric_mse",
    "nnunet_ssl.patches.mixing.blend",
    "nnunet_ssl.patches.mixing.halves",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.mixup.confirmed_shares": "the file has the draw, but no seed",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
}


def _step(file: GoldenFile, dim: str) -> dict[str, Any]:
    student = file.tensor(f"student_logits{dim}", requires_grad=True)
    teachers = [file.tensor(f"ema_logits{i}_{dim}") for i in range(2)]
    labeled = len(student) - len(teachers[0])
    images = file.tensor(f"volume{dim}")
    first, second = halves(images[labeled:])
    drawn, mixes = (torch.from_numpy(file.byproduct(f"{key}{dim}")) for key in ("mix_factors", "model_input"))
    shares = confirmed_shares(drawn, mixes[labeled:], first, second)
    mixed = blend(second, first, shares)
    target = blend(probabilities(teachers[1]), probabilities(teachers[0]), shares)
    supervised = ce_dice_loss(student[:labeled], file.tensor(f"labels{dim}")[:labeled])
    consistency = symmetric_mse(probabilities(student[labeled:]), target)
    weight = ssl4mis_weight(file, f"weight{dim}")
    terms = {"supervised": supervised, "consistency": consistency}
    loss = weighted_sum(terms, {"supervised": 1.0, "consistency": weight})
    return {
        f"mix_factors{dim}": shares,
        f"model_input{dim}": torch.cat((images[:labeled], mixed)),
        f"pred_mixed{dim}": target,
        f"supervised{dim}": supervised,
        f"consistency{dim}": consistency,
        f"weight{dim}": weight,
        f"loss{dim}": loss,
        f"grad{dim}": grad(loss, student),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for dim in file.match(r"volume(\dd)"):
        produced |= _step(file, dim)
    return produced
