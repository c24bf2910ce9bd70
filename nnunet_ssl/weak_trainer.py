"""The base of trainers for sparse labels: scribbles, points, boxes, some slices.

What is not annotated has nnU-Net's ignore label, and the loss on annotated voxels is nnU-Net's own. A method adds terms that say
something about the other voxels; with all weights at zero its step is the one of `nnUNetTrainer` on the same data, bit for bit.
"""

from __future__ import annotations

from typing import Literal

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from nnunet_ssl.dataloading.inside import recording_inside
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.errors import UserError
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerWeak(nnUNetTrainerSSL):
    """Base class of methods for sparse labels; on its own it is nnU-Net with the ignore label.

    `batch.labeled_inside` says which voxels of a patch are image: terms on voxels that are not annotated leave padding out.

    Attributes:
        padding: what the padding of patches counts as: "background" as in nnU-Net, or "ignore". Rotated and scaled patches
            of a thin scribble may hold far more padding than annotated background.
    """

    needs_unlabeled = False
    padding: Literal["background", "ignore"] = "background"

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        """Named scalar loss terms beside nnU-Net's loss on annotated voxels.

        Args:
            logits: the student's logits on `batch.labeled`, one `(L, C, *spatial)` per scale, highest resolution first.
        """
        return {}

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        """One forward of every supervised network, nnU-Net's loss for each, and `weak_terms`."""
        terms = {}
        for member in self.supervised_networks():
            batch.labeled_logits[member.name] = scales = member(batch.labeled)
            terms[self.labeled_name(member)] = self.supervised_loss(scales, batch.target, batch)
        return terms | self.weak_terms(batch.labeled_logits["student"], batch)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of voxels in mm along each axis of the patch."""
        return tuple(self.configuration_manager.spacing)

    def labeled_transforms(self, transforms: list[BasicTransform]) -> list[BasicTransform]:
        return recording_inside(transforms, 0 if self.padding == "background" else self.label_manager.ignore_label)

    def check_supported(self) -> None:
        super().check_supported()
        if not self.label_manager.has_ignore_label:
            raise UserError(
                f"{type(self).__name__} is for sparse labels, and the labels of {self.plans_manager.dataset_name} "
                f"({', '.join(self.dataset_json['labels'])}) have no 'ignore', nnU-Net's name for what is not annotated. "
                "`nnunet_ssl convert` writes it for scribbles, `nnunet_ssl weaken` makes sparse labels from dense ones."
            )
