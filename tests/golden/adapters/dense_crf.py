"""dense_crf.npz: the dense CRF energy of rloss, by its permutohedral lattice and by exact Gaussian sums."""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.dense_crf import bilateral_filter
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.dense_crf import dense_crf_energy, rloss_downscale

TRAINER = "nnUNetTrainerScribbleDenseCRF"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.dense_crf.bilateral_filter",
)
REFERENCE_ONLY = {
    "tests.golden.reference.dense_crf.dense_crf_energy": "grows with the square of the image; the trainer has dense_crf_loss",
    "tests.golden.reference.dense_crf.rloss_downscale": "the official small grid; the trainer's has means over its cells",
}

# numbers that stand in the sidecar's `meaning` only: sigma of the position, scale of the grid, sigma there, weight
SIGMA_RGB = 15
FULL = (20, 1.0)
SIGMA_HALF, SCALE_HALF, WEIGHT_HALF = 50.0, 0.5, 2e-9  # 100 voxels of the full image are 50 of the small one


def adapt(file: GoldenFile) -> dict[str, Any]:
    logits, image = file.tensor("logits", requires_grad=True), file.tensor("image")
    roi = file.tensor("roi").bool()[:, None]
    p = probabilities(logits)
    full = {"sigma_position": FULL[0], "sigma_intensity": SIGMA_RGB}
    half = {"sigma_position": SIGMA_HALF, "sigma_intensity": SIGMA_RGB}

    def weighted(energy: torch.Tensor, weight: float) -> torch.Tensor:
        return weighted_sum({"energy": energy}, {"energy": weight})

    lattice = weighted(dense_crf_energy(p, image, roi=roi, method="lattice", **full), FULL[1])
    exact = weighted(dense_crf_energy(p, image, roi=roi, dtype=torch.float64, **full), FULL[1])
    small = dict(zip(("probabilities", "images", "roi"), rloss_downscale(p, image, roi, SCALE_HALF)))
    small_lattice = weighted(dense_crf_energy(**small, method="lattice", **half), WEIGHT_HALF)
    small_exact = weighted(dense_crf_energy(**small, dtype=torch.float64, **half), WEIGHT_HALF)
    return {
        "rloss_s1": lattice[None],
        "rloss_s1_grad": grad(lattice, logits),
        "rloss_s1_exact": exact,
        "rloss_s05": small_lattice[None],
        "rloss_s05_grad": grad(small_lattice, logits),
        "rloss_s05_exact": small_exact,
        "filter_output": bilateral_filter(p, image, method="lattice", **full),
        "filter_output_exact": bilateral_filter(p, image, **full),
    }
