"""ua_mt_ssl4mis.npz: a step of UA-MT as the 2D and 3D scripts of SSL4MIS have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.selective import selective_mse
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.predictions.uncertainty import (
    max_entropy,
    mean_probabilities,
    predictive_entropy,
    ramped_threshold,
    select_certain,
)
from nnunet_ssl.ramps import ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerUAMT"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.selective.selective_mse",
    "nnunet_ssl.patches.perturbations.add_clipped_noise",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
    "nnunet_ssl.predictions.uncertainty.max_entropy",
    "nnunet_ssl.predictions.uncertainty.mean_probabilities",
    "nnunet_ssl.predictions.uncertainty.predictive_entropy",
    "nnunet_ssl.predictions.uncertainty.ramped_threshold",
    "nnunet_ssl.predictions.uncertainty.select_certain",
)
REFERENCE_ONLY = {
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}
# numbers that stand in the sidecar's `meaning` and in the specification only; the official code has the two-class constants
# for any number of classes
CLASSES = 2
START, END = 0.75, 1.0
WEIGHT, RAMP_INTERVAL, RAMP_LENGTH = 0.1, 150, 200
NOISE_LIMIT = 0.2


def _teacher_input(file: GoldenFile, dim: str, unlabeled: int) -> Tensor:
    """The images with noise of which the file has neither values nor a seed: it is what its noisy images differ by.

    This checks the clipping and that the noise is added to the unlabeled images; mean_teacher.npz, which has its noise, checks
    the whole formula.
    """
    images = file.tensor(f"volume{dim}")[-unlabeled:]
    noise = torch.from_numpy(file.byproduct(f"teacher_input{dim}_0")) - images
    return add_clipped_noise(images, std=1.0, limit=NOISE_LIMIT, normal=noise)


def _step(file: GoldenFile, dim: str) -> dict[str, Any]:
    student = file.tensor(f"logits{dim}", requires_grad=True)
    calls = [key for key in file.match(rf"(teacher_logits{dim}_\d+)") if key != f"teacher_logits{dim}_0"]
    target = file.tensor(f"teacher_logits{dim}_0")
    labeled = len(student) - len(target)
    iteration = file.constant("iter_num", f"threshold{dim}")
    progress = ramp_progress(iteration, file.constant("max_iterations", f"threshold{dim}"))

    uncertainty = predictive_entropy(mean_probabilities([file.tensor(key) for key in calls], len(target)))
    threshold = ramped_threshold(progress, START, END, max_entropy(CLASSES))
    mask = select_certain(uncertainty, threshold)
    consistency = selective_mse(student[labeled:], target, mask, channels=CLASSES)
    weight = sigmoid_rampup(stepwise_progress(iteration, RAMP_INTERVAL, RAMP_LENGTH), WEIGHT)
    supervised = ce_dice_loss(student[:labeled], file.tensor(f"labels{dim}")[:labeled])
    return {
        f"teacher_input{dim}_0": _teacher_input(file, dim, len(target)),
        f"uncertainty{dim}": uncertainty,
        f"threshold{dim}": threshold,
        f"mask{dim}": mask,
        f"consistency{dim}": consistency,
        f"weight{dim}": weight,
        f"loss{dim}": weighted_sum(
            {"supervised": supervised, "consistency": consistency}, {"supervised": 1.0, "consistency": weight}
        ),
        f"grad{dim}": grad(consistency, student),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for dim in file.match(r"logits(\dd)"):
        produced |= _step(file, dim)
    return produced
