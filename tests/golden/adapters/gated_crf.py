"""gated_crf.npz: the Gated CRF loss of four released codes, in 2D and 3D, with masks and at the border."""

from __future__ import annotations

import ast
from typing import Any

from nnunet_ssl.losses.gated_crf import GaussianKernel, gated_crf_loss
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.gated_crf import kernel_sum, kernel_window

TRAINER = "nnUNetTrainerScribbleGatedCRF"
USES = (
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.gated_crf.GaussianKernel",
    "nnunet_ssl.losses.gated_crf.gated_crf_loss",
)
REFERENCE_ONLY = {
    "tests.golden.reference.gated_crf.kernel_sum": "to look at a kernel; a part of the loss",
    "tests.golden.reference.gated_crf.kernel_window": "to look at a kernel",
}

# numbers that stand in the sidecar's `meaning` only
TWO = ((0.9, 6.0, 0.1), (0.1, 6.0, None))
PYMIC, PYMIC_RADIUS = ((1.0, 5.0, 0.1), (1.0, 3.0, None)), 5
SLICES, VOLUME, SPACING = (2, 2, 0), (2, 2, 1), (1.0, 1.0, 2.5)


def _stated_kernels(file: GoldenFile) -> list[GaussianKernel]:
    stated = ast.literal_eval(file.constant("kernels_desc"))
    return [GaussianKernel(kernel["weight"], kernel["xy"], kernel.get("rgb")) for kernel in stated]


def adapt(file: GoldenFile) -> dict[str, Any]:
    radius, wsl = file.constant("radius"), _stated_kernels(file)
    two, pymic = ([GaussianKernel(*kernel) for kernel in kernels] for kernels in (TWO, PYMIC))
    logits, image = file.tensor("logits", requires_grad=True), file.tensor("image")
    valid, unannotated = file.tensor("validity").bool(), file.tensor("mask_dst").bool()
    p = probabilities(logits)
    plain = gated_crf_loss(p, image, wsl, radius, count_outside=True)
    masked = gated_crf_loss(p, image, wsl, radius, source=valid, count_outside=True)

    logits_3d, image_3d = file.tensor("logits3d", requires_grad=True), file.tensor("image3d")
    p_3d = probabilities(logits_3d)
    slices = gated_crf_loss(p_3d, image_3d, wsl, SLICES, count_outside=True)
    volume = gated_crf_loss(p_3d, image_3d, wsl, VOLUME, SPACING, count_outside=True)
    return {
        "wsl_gcrf": plain,
        "wsl_gcrf_grad": grad(plain, logits),
        "kernel_sum": kernel_sum(image, wsl, radius, count_outside=True),
        "kernel_pixel": kernel_window(image, None, wsl, radius, count_outside=True)[0],
        "kernel_corner": kernel_window(image, (0, 0), wsl, radius, count_outside=True)[0],
        "orig_gcrf_masksrc": masked,
        "orig_gcrf_masksrc_grad": grad(masked, logits),
        "orig_gcrf_maskdst": gated_crf_loss(p, image, wsl, radius, destination=unannotated, count_outside=True),
        "orig_gcrf_two_kernels": gated_crf_loss(p, image, two, radius, count_outside=True),
        "pymic_gcrf": gated_crf_loss(p, image, pymic, PYMIC_RADIUS, count_outside=True),
        "paseg_gcrf_3d22d": slices,
        "paseg_gcrf_3d22d_grad": grad(slices, logits_3d),
        "paseg_gcrf_3d": volume,
        "paseg_gcrf_3d_grad": grad(volume, logits_3d),
    }
