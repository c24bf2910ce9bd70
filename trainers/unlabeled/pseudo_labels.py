"""Offline self-training: nnU-Net on labeled images, and on unlabeled ones with labels that a finished nnU-Net has predicted.

The recipe of the FLARE22 winner (Huang et al., "Revisiting nnU-Net for iterative pseudo labeling and efficient sliding window
inference", FLARE22 at MICCAI 2022; Ziyan-Huang/FLARE22) and of the noisy student (Xie et al., CVPR 2020, arXiv:1911.04252).

`nnunet_ssl pseudo_label` makes a round of labels of whole images, at test quality; this trainer starts from scratch on both:

    L = L_nnunet(f(x), y_x) + w L_nnunet(f(u), y_u),    w = N_U / (N_U + N_L)

with nnU-Net's training augmentation and foreground oversampling on labeled and pseudo-labeled patches. Voxels of y_u without a
decision (the ignore label, see `nnunet_ssl/preprocessing/rounds.py`) do not count.

Differs from the official code: labeled patches are in every batch (official: patches are drawn from all cases alike, so that of 50
labeled and 1924 unlabeled cases 2.5 % of the patches are labeled; w gives the pseudo-labeled ones the share of at most half).
Plans and fingerprint are those of the labeled cases (official: planned anew with the pseudo-labeled ones). The student is as large
as the teacher (official: a small one for speed). Training on labeled cases at the end, `final_labeled_fraction`, is 0.09 in the
baseline of AbdomenCT-1K (100 of 1100 epochs; JunMa11/AbdomenCT-1K, task 2), and off here.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from torch import Tensor

from nnunet_ssl.dataloading.pseudo_labels import pseudo_labeled_loader
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Share, Weight
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.preprocessing.rounds import find_round, uncertain_code, verified_labels
from nnunet_ssl.trainer import nnUNetTrainerSSL


class UsedRound:
    """Which round a run trains on, kept in checkpoints: a run that is continued stays with its labels."""

    name: str | None = None
    digest: str | None = None

    def state_dict(self) -> dict:
        return {"name": self.name, "digest": self.digest}

    def load_state_dict(self, state: dict) -> None:
        self.name, self.digest = state["name"], state["digest"]


class nnUNetTrainerPseudoLabels(nnUNetTrainerSSL):
    """nnU-Net on labeled images and on a round of `nnunet_ssl pseudo_label`: what wins challenges with nnU-Net.

    Passes per step (F+B on L+U): forward and backward on labeled and pseudo-labeled patches in one batch; before that a
    training of nnU-Net, and a sliding-window prediction of each unlabeled image.
    """

    round_name: str | None = None  # None: the newest finished round
    pseudo_weight: Weight | None = None  # None: share of the pseudo-labeled cases, N_U / (N_U + N_L)
    blank: Share = 0.0  # share of the pseudo-labeled patches of which rectangles are hidden from the network
    final_labeled_fraction: Share = 0.0  # of the run, at its end, on labeled patches only; AbdomenCT-1K: 0.09

    def build_method(self) -> None:
        self.used = self.register_state("round", UsedRound())
        labels = {**self.dataset_json["labels"], "ignore": uncertain_code(self.dataset_json)}
        self.with_ignore = self.plans_manager.get_label_manager({**self.dataset_json, "labels": labels})
        builder = copy.copy(self)  # nnU-Net asks the trainer's label manager for the ignore label
        builder.label_manager = self.with_ignore
        self.pseudo_loss = builder._build_loss()
        plain = self.pseudo_loss.loss if self.enable_deep_supervision else self.pseudo_loss
        if isinstance(plain, DC_and_BCE_loss) and not self.label_manager.has_ignore_label:
            # with an ignore label nnU-Net sums the cross entropy over the regions, without one it is their mean
            plain.weight_ce /= self.label_manager.num_segmentation_heads

    def find_cases(self) -> None:
        super().find_cases()
        base = self.preprocessed_dataset_folder_base
        found = find_round(base, self.used.name or self.round_name, self.configuration_name)
        found.check_classes(self.dataset_json)
        if self.used.digest not in (None, found.digest):
            raise UserError(
                f"{found.folder} has other labels than those this run started with. Start it again without --c, or make the round "
                "as it was."
            )
        plans = self.plans_manager, self.configuration_manager
        labeled = (*self.cases.train, *self.cases.validation)
        self.labels_folder, kept = verified_labels(found, base, *plans, self.cases.unlabeled, labeled)
        self.used.name, self.used.digest = found.name, found.digest
        self.set_unlabeled_cases(kept)
        self.print_to_log_file(f"Pseudo labels of {found.folder}: {len(kept)} of {len(found.cases)} cases.")
        if seen := sorted(set(found.trained_on) & set(self.cases.validation) - set(self.cases.train)):
            self.cases = replace(self.cases, seen_validation=tuple(seen))  # for split.json and `nnunet_ssl compare`
            self.print_to_log_file(
                f"Note: the networks that made them were trained on {some(seen, 5)}, validation case(s) of this fold. The "
                "validation is too good; compare on the test cases, or make a round with the networks of this fold alone."
            )

    def unlabeled_loader(self, labeled: nnUNetDataLoader) -> nnUNetDataLoader:
        folder = Path(self.labels_folder)
        return pseudo_labeled_loader(self, labeled, folder, self.unlabeled_pool, self.with_ignore, self.blank)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        scales = logits if self.enable_deep_supervision else logits[0]
        return {"pseudo": self.pseudo_loss(scales, batch.unlabeled_target)}

    def weights(self) -> dict[str, float]:
        if self.final_labeled_fraction > 0 and self.progress >= 1 - self.final_labeled_fraction:
            return {"pseudo": 0.0}
        return {"pseudo": self.unlabeled_share if self.pseudo_weight is None else self.pseudo_weight}
