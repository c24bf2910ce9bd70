"""ShapePU: positive-unlabeled learning from scribbles, regularized by global consistency.

K. Zhang & X. Zhuang, "ShapePU: A New PU Learning Framework Regularized by Global Consistency for Scribble Supervised Cardiac
Segmentation", MICCAI 2022, arXiv:2206.02118. Official code: BWGZK/ShapePU.

    L = L_sup(x) + cut_weight L_sup(T(x)) + consistency_weight mean_v (1 - cos(p(x), T^-1 p(T(x)))) + marginal_weight L_pu
    L_pu = mean over voxels with a class ruled out of  -log sum_c p_c (1 - nu_c)

T cuts a box out (no label there), rotates and flips. alpha_c, the share of class c among voxels that are not annotated, is
estimated by expectation maximization from the student's probabilities; class c is ruled out (nu_c = 1) at the (1 - alpha_c) of
these voxels where p_c is lowest. The background is never ruled out.

Differs from the official code:
* L_sup is nnU-Net's loss on annotated voxels (official: cross entropy), p and L_pu are of the highest resolution.
* What the paper intends and the code does not: a hole has no label (official: background), T is undone in the right order, for
  every sample, and every sample is masked by its own hole; the consistency is a mean over what is not cut.
* alpha is estimated on the voxels without an annotation, as the paper says. The code takes the annotated ones
  (`mixture_of = "annotated"`). Its moving average is used, of the mean over all GPUs (official: of each batch; nnU-Net's 3D
  batches hold two patches). A class without annotations in the batch keeps its average (official: the code stops), and is not
  ruled out anywhere before it has one.
* alpha and the thresholds come from at most `sampled_voxels` voxels of the batch, and from the forward pass that trains (official:
  one more, in evaluation mode, which makes no difference for nnU-Net's networks).
* Rotations by multiples of 90 degrees in the plane of the last two axes, one for the whole batch (official: any angle). Padding
  counts nowhere.
* The marginal loss begins after a tenth of the run (official: 100 of 4000 epochs).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.features import refuse_without_mirroring_in_plane
from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.engine.running_mean import RunningMean
from nnunet_ssl.engine.value_ranges import Count, Share, Weight
from nnunet_ssl.losses.cosine import cosine_distance
from nnunet_ssl.losses.positive_unlabeled import (
    class_shares,
    class_thresholds,
    estimate_mixture,
    marginal_loss,
    ruled_out,
    sample_voxels,
)
from nnunet_ssl.patches.cut_and_turn import cut_and_turned_pass, draw_turn, hole_size
from nnunet_ssl.patches.mixing import cutout_masks
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerShapePU(nnUNetTrainerWeak):
    """ShapePU: estimated shares of the classes rule out where each is least probable; consistency with a cut, rotated copy.

    Passes per step (F+B on L, twice): forward and backward of the patches and of their cut, rotated copies.
    """

    cut_weight: Weight = 1.0  # as in the official code
    consistency_weight: Weight = 0.05  # as in the official code
    marginal_weight: Weight = 1.0  # as in the official code
    marginal_start: Share = 0.1  # of the run; official code: 100 of 4000 epochs
    cutout: Share = 32 / 212  # side of the hole, of the patch per axis; official code: 32 of 212 voxels
    # voxels on which alpha is estimated; official code: "annotated"
    mixture_of: Literal["unannotated", "annotated"] = "unannotated"
    mixture_decay: Share = 0.9  # of the moving average of alpha; 0: of each batch, as in the official code
    sampled_voxels: Count = 100_000  # of a batch at most, for alpha and the thresholds; official: all

    unsupported = {"regions": "what is ruled out of one class has to be of the others, and regions overlap"}

    def check_supported(self) -> None:
        super().check_supported()
        refuse_without_mirroring_in_plane(self, "the second pass")

    def build_method(self) -> None:
        classes = self.label_manager.num_segmentation_heads
        mean = RunningMean(
            (classes,), self.mixture_decay, initial=1.0, all_ranks=self.is_ddp
        )  # a share of 1 rules nothing out
        self.mixture = self.register_module("mixture", mean, optimizer=None)

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        shape = batch.labeled.shape[2:]
        target, p = as_scales(batch.target)[0], probabilities(logits[0])
        kept = cutout_masks(batch.num_labeled, shape, hole_size(shape, self.cutout), device=p.device)
        turn = draw_turn(self.spacing, shape)
        scales, targets, back = cut_and_turned_pass(
            self.student, batch.labeled, target, kept, turn, self.label_manager.ignore_label
        )
        terms = {
            "cut": self.supervised_loss(scales, targets if self.enable_deep_supervision else targets[0], batch),
            "consistency": cosine_distance(p, probabilities(back), kept & batch.labeled_inside),
        }
        if self.weights()["marginal"] > 0:
            terms["marginal"] = marginal_loss(p, self.negatives(p.detach(), target, batch))
        return terms

    @torch.no_grad()
    def negatives(self, p: Tensor, target: Tensor, batch: SSLBatch) -> Tensor:
        """Which voxels are not of which class, bool `(L, C, *spatial)`, from probabilities of the same shape."""
        annotated = self.annotated(batch.target)
        positive, unlabeled = annotated & batch.labeled_inside, ~annotated & batch.labeled_inside
        prior = class_shares(target, p.shape[1], positive)
        counted, sample = sample_voxels(self.sampled_voxels, unlabeled, p)
        of_annotated = self.mixture_of == "annotated"
        mixed_in, mixed = sample_voxels(self.sampled_voxels, positive, p) if of_annotated else (counted, sample)
        shares = torch.where(prior > 0, estimate_mixture(mixed, prior, mixed_in), torch.nan)
        mixture = self.mixture.module(shares)
        return ruled_out(p, class_thresholds(sample, mixture, counted), unlabeled)

    def weights(self) -> dict[str, float]:
        return {
            "cut": self.cut_weight,
            "consistency": self.consistency_weight,
            "marginal": self.marginal_weight if self.progress >= self.marginal_start else 0.0,
        }
