"""dmpls.npz: one step of DMPLS in WSL4MIS, and the regularizers of DMPLS and DMSPS in PyMIC."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.mixed_pseudo_labels import hard_mixture, mixed_probabilities, pseudo_dice, soft_cross_entropy
from nnunet_ssl.losses.region import masked_cross_entropy, split_ignored
from tests.golden.framework import GoldenFile, grad

TRAINER = "nnUNetTrainerScribbleDMPLS"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.mixed_pseudo_labels.hard_mixture",
    "nnunet_ssl.losses.mixed_pseudo_labels.mixed_probabilities",
    "nnunet_ssl.losses.mixed_pseudo_labels.pseudo_dice",
)
REFERENCE_ONLY = {
    "nnunet_ssl.losses.mixed_pseudo_labels.soft_cross_entropy": "nnUNetTrainerScribbleDMSPS, which "
    "tests/trainers/test_dmpls.py sees call it",
    "nnunet_ssl.losses.region.masked_cross_entropy": "the official loss on scribbles; our trainers have nnU-Net's",
    "nnunet_ssl.losses.region.split_ignored": "part of the official loss on scribbles",
}


def _halves(main: Tensor, auxiliary: Tensor) -> Tensor:
    """The mean of both decoders' losses."""
    return weighted_sum({"main": main, "auxiliary": auxiliary}, {"main": 0.5, "auxiliary": 0.5})


def adapt(file: GoldenFile) -> dict[str, Any]:
    decoders = [file.tensor(f"logits_{name}", requires_grad=True) for name in ("main", "aux")]
    main, auxiliary = decoders
    classes = main.shape[1]
    scribble = split_ignored(file.tensor("scribble")[:, None], classes, regions=False)
    mixed = mixed_probabilities(main, auxiliary, file.tensor("beta"))
    label = hard_mixture(mixed)
    loss_ce = _halves(*(masked_cross_entropy(z, *scribble) for z in decoders))
    pseudo = _halves(*(pseudo_dice(z, label) for z in decoders))
    loss = weighted_sum({"ce": loss_ce, "pseudo": pseudo}, {"ce": 1.0, "pseudo": file.constant("weight_pseudo")})
    soft = _halves(*(soft_cross_entropy(z, mixed) for z in decoders))
    return {
        "loss_ce": loss_ce,
        "pseudo_supervision": label[:, 0],
        "loss_pse_sup": pseudo,
        "loss": loss,
        "loss_grad_main": grad(loss, main),
        "loss_grad_aux": grad(loss, auxiliary),
        "pymic_dmsps_reg_as_coded": _halves(*(soft_cross_entropy(z, mixed, double_softmax=True) for z in decoders)),
        "dmsps_reg_intended": soft,
        "dmsps_reg_intended_grad_main": grad(soft, main),
        "pymic_dmpls_reg": _halves(*(pseudo_dice(z, label, squared=False) for z in decoders)),
    }
