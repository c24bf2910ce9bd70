"""maag_losses.npz: supervised and adversarial losses of MAAG."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.adversarial_masks import least_squares_discriminator_loss, least_squares_generator_loss
from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.region import split_ignored
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.adversarial_masks import balanced_cross_entropy, rescaled

TRAINER = "nnUNetTrainerMAAG"
USES = (
    "nnunet_ssl.losses.adversarial_masks.least_squares_discriminator_loss",
    "nnunet_ssl.losses.adversarial_masks.least_squares_generator_loss",
    "nnunet_ssl.losses.combine.weighted_sum",
)
REFERENCE_ONLY = {
    "tests.golden.reference.adversarial_masks.balanced_cross_entropy": "the official loss on scribbles; ours is nnU-Net's",
    "tests.golden.reference.adversarial_masks.rescaled": "makes the official loss on scribbles as large as the adversarial one; "
    "nnU-Net's loss keeps its size and may be 0 or negative",
    "nnunet_ssl.losses.region.split_ignored": "for the official loss on scribbles",
}

# weights that stand in the sidecar's `meaning` only
SUPERVISED_ADVERSARIAL, ADVERSARIAL = 0.1, 0.2


def adapt(file: GoldenFile) -> dict[str, Any]:
    logits = file.tensor("logits_nhwc", requires_grad=True)
    target, annotated = split_ignored(file.tensor("scribble")[:, None], logits.shape[-1], regions=False)
    entropy = balanced_cross_entropy(logits.movedim(-1, 1), target, annotated)
    real, fake = (file.tensor(f"disc_pred_{x}") for x in ("real", "fake"))
    discriminator, generator = least_squares_discriminator_loss(real, fake), least_squares_generator_loss(fake)
    supervised = least_squares_discriminator_loss(*(file.tensor(f"sup_disc_pred_{x}") for x in ("real", "fake")))
    terms = {"entropy": rescaled(entropy, supervised), "adversarial": supervised}
    return {
        "masked_wxentropy_loss": entropy,
        "wxent_grad": grad(entropy, logits),
        "adv_disc_loss": discriminator,
        "adv_gen_loss": generator,
        "sup_disc_loss": supervised,
        "sup_loss": weighted_sum(terms, {"entropy": 1.0, "adversarial": SUPERVISED_ADVERSARIAL}),
        "generator_loss": weighted_sum({"generator": generator}, {"generator": ADVERSARIAL}),
        "discriminator_loss": weighted_sum({"discriminator": discriminator}, {"discriminator": ADVERSARIAL}),
    }
