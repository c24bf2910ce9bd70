"""entropy_tv_intensity.npz: entropy, soft contour and spread of intensities, as WSL4MIS and PyMIC have them."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.contour import contour_length
from nnunet_ssl.losses.entropy import entropy_loss
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.uncertainty import predictive_entropy
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.intensity_variance import inter_class_deviation, intra_class_deviation

TRAINER = "nnUNetTrainerScribbleEntropyMin"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.entropy.entropy_loss",
    "nnunet_ssl.predictions.uncertainty.predictive_entropy",
)
REFERENCE_ONLY = {
    "nnunet_ssl.losses.contour.contour_length": "the term of nnUNetTrainerScribbleTV",
    "tests.golden.reference.intensity_variance.inter_class_deviation": "opposite to the stated aim, see the specification's sign "
    "problem; nnUNetTrainerScribbleIntensityVariance has the variance inside classes (golden file `points`)",
    "tests.golden.reference.intensity_variance.intra_class_deviation": "as inter_class_deviation",
}
NOT_FOLLOWED = {
    "pymic_tv": "a comparison of a list with 2 is never true, so 2D probabilities are pooled in 3D, across the classes",
}

PYMIC_SQUEEZE = 5e-4  # stands in the sidecar's `meaning` only


def adapt(file: GoldenFile) -> dict[str, Any]:
    logits, image = file.tensor("logits", requires_grad=True), file.tensor("image")
    p = probabilities(logits)
    intra, inter = intra_class_deviation(p, image), inter_class_deviation(p, image)
    with_gradient = {
        "entropy_loss": entropy_loss(p),
        "entropy_minmization": entropy_loss(p, relative=False),
        "tv_all": contour_length(p, background=True),
        # the script slices the batch instead of the channels
        "tv_as_trained": contour_length(p[1:], background=True),
        "tv_foreground": contour_length(p),
        "intra_class_variance": intra,
        "inter_class_variance": inter,
        "intensity_loss_as_trained": weighted_sum({"inter": inter, "intra": intra}, {"inter": 1.0, "intra": -1.0}),
    }
    produced = dict(with_gradient)
    produced |= {f"{name}_grad": grad(value, logits) for name, value in with_gradient.items()}
    produced["pymic_entropy"] = entropy_loss(p, eps=0.0, squeeze=PYMIC_SQUEEZE)
    produced["entropy_map"] = predictive_entropy(p)
    return produced
