"""partial_cross_entropy.npz: cross entropy and Dice of sparse labels in several code bases, and nnU-Net's own loss of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from nnunet_ssl.losses.partial_cross_entropy import partial_cross_entropy
from nnunet_ssl.losses.region import masked_dice_loss, split_ignored
from tests.golden.framework import GoldenFile, grad

TRAINER = "nnUNetTrainerScribblePCE"
USES: tuple[str, ...] = ()  # the trainer has nnU-Net's own loss; the `nnunet_*` arrays are what it computes
REFERENCE_ONLY = {
    "nnunet_ssl.losses.partial_cross_entropy.partial_cross_entropy": "nnU-Net's loss has its own cross entropy of annotated voxels",
    "nnunet_ssl.losses.region.masked_dice_loss": "nnU-Net's loss has its own Dice of annotated voxels",
    "nnunet_ssl.losses.region.split_ignored": "nnU-Net's loss takes the ignore label as it is",
}
NOT_FOLLOWED = dict.fromkeys(
    ("wsl_pdice", "wsl_pdice_grad"),
    "a mask of shape (N,1,H,W) is broadcast against (N,H,W), so that every item is masked by the masks of all items",
)

DICE_SMOOTH = 1e-5  # of WSL4MIS; stands in the specification only


def _loss_of_trainer(logits: Tensor, target: Tensor, ignore_label: int, regions: bool, batch_dice: bool) -> Tensor:
    """What the trainer's supervised loss is for a data set with these labels and plans with this `batch_dice`."""
    # here and not above, where a test would replace it by a recorder of calls, as it does with functions
    from nnunet_ssl.trainers import nnUNetTrainerScribblePCE as cls

    trainer = cls.__new__(cls)
    trainer.gate = None
    trainer.device, trainer.is_ddp, trainer.enable_deep_supervision = logits.device, False, False
    trainer.label_manager = SimpleNamespace(has_regions=regions, ignore_label=ignore_label)
    trainer.configuration_manager = SimpleNamespace(batch_dice=batch_dice)
    trainer.loss = trainer._build_loss()
    return trainer.supervised_loss([logits], target, None)


def adapt(file: GoldenFile) -> dict[str, Any]:
    unlabeled = file.constant("unlabelled value")
    logits, scribble = file.tensor("logits", requires_grad=True), file.tensor("scribble")[:, None]
    target, annotated = split_ignored(scribble, unlabeled, regions=False)
    pce = partial_cross_entropy(logits, target, annotated)
    dice = masked_dice_loss(logits, target, annotated, batch=True, squared=True, smooth=DICE_SMOOTH)
    produced = {
        "wsl_pce": pce,
        "wsl_pce_grad": grad(pce, logits),
        "wsl_pce_weighted": partial_cross_entropy(
            logits, target, annotated, class_weights=file.tensor("class_weights")
        ),
        "pdice_intended": dice,
        "pdice_intended_grad": grad(dice, logits),
        "pymic_pce": pce,
        "cyclemix_pce": partial_cross_entropy(logits, target, annotated, over="all"),
        "shapepu_pce": pce,
        "nnunet_dc_ce_all_ignored": _loss_of_trainer(
            logits, scribble.new_full(scribble.shape, unlabeled), unlabeled, regions=False, batch_dice=False
        ),
    }
    for batch_dice in file.match(r"nnunet_dc_ce_batchdice(\d)"):
        loss = _loss_of_trainer(logits, scribble, unlabeled, regions=False, batch_dice=batch_dice == "1")
        name = f"nnunet_dc_ce_batchdice{batch_dice}"
        produced |= {name: loss, f"{name}_grad": grad(loss, logits)}
    regions = file.tensor("region_target")
    of_regions = file.tensor("logits")[:, : regions.shape[1] - 1].requires_grad_()
    loss = _loss_of_trainer(of_regions, regions, unlabeled, regions=True, batch_dice=False)
    return produced | {"nnunet_dc_bce_regions": loss, "nnunet_dc_bce_regions_grad": grad(loss, of_regions)}
