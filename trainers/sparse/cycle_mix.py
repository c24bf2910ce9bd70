"""CycleMix: mixing of scribbles and cycle consistency.

K. Zhang & X. Zhuang, "CycleMix: A Holistic Strategy for Medical Image Segmentation from Scribble Supervision", CVPR 2022,
arXiv:2203.01475. Official code: BWGZK/CycleMix.

    x_m = M x + (1 - M) x',  y_m = M y + (1 - M) y'     M: a grid of blocks, x' the next patch of the batch
    L = L_sup(x) + mix_weight L_sup(T(x_m), T(y_m)) + consistency_weight mean_v (1 - cos(T^-1 p(T(x_m)), M p(x) + (1 - M) p(x')))
        + integrity_weight mean_v (1 - cos(p(x), onehot(K(argmax p(x)))))

T cuts a box out (no label there), rotates and flips; K keeps what belongs to the largest component of its class and of the
foreground as a whole. Gradients flow to both predictions of the consistency, not through K.

Differs from the official code:
* L_sup is nnU-Net's loss on annotated voxels (official: cross entropy divided by all voxels); p of the highest resolution.
* M: each block is of either patch, drawn with one lambda ~ Beta(0.5, 0.5) per step (official: PuzzleMix, a graph cut over the
  saliency of the blocks, which needs one more forward and backward pass and a library for graph cuts; and blocks moved in the
  images but not in their labels). M is 0 or 1, so that mixed labels stay labels; what is not annotated stays so.
* Every patch is mixed with the next one of the batch (official: a random permutation, in which patches may meet themselves).
* Rotations by multiples of 90 degrees in the plane of the last two axes, one for the whole batch (official: any angle, no flip).
* The consistency is a mean over what is neither cut nor padding (official: all, with a constant share for the hole).
* `integrity_weight` supposes that every class is one connected part of one organ; `connected` names the classes for which this is
  so. Set the weight to 0 for lesions. The components are found on the CPU.
* Weights of the code, 0.1 and 0.1; the paper has others.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nnunet_ssl.dataloading.streams import refuse_single_patches
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.features import refuse_without_mirroring_in_plane
from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.engine.value_ranges import Count, Positive, Share, Weight, Whole
from nnunet_ssl.losses.cosine import cosine_distance
from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.patches.cut_and_turn import cut_and_turned_pass, draw_turn, hole_size
from nnunet_ssl.patches.mixing import blend, copy_paste, cutout_masks, draw_block_masks, resize_nearest
from nnunet_ssl.predictions.hard_labels import hard_labels, largest_structure
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerCycleMix(nnUNetTrainerWeak):
    """CycleMix: patches and scribbles mixed in blocks; the prediction of the mix is the mix of predictions.

    Passes per step (F+B on L, twice): forward and backward of the patches and of as many mixed ones; components on the CPU
    once a step (`integrity_weight > 0`).
    """

    mix_weight: Weight = 1.0  # as in the official code
    consistency_weight: Weight = 0.1  # as in the official code
    integrity_weight: Weight = 0.1  # as in the official code; 0 where a class has several parts
    # labels that are parts of one organ; None: all but the background, as in the official code
    connected: tuple[Whole, ...] | None = None
    blocks: tuple[Count, ...] = (2, 4, 8, 16)  # per axis, one of them in each step; as in the official code
    mix_alpha: Positive = 0.5  # lambda ~ Beta(alpha, alpha); as in the official code
    cutout: Share = 32 / 212  # side of the hole, of the patch per axis; official code: 32 of 212 voxels

    unsupported = {
        "regions": "the angle between the probabilities of regions says nothing in the background, where all of them are near 0"
    }

    def check_supported(self) -> None:
        super().check_supported()
        refuse_without_mirroring_in_plane(self, "the pass of the mixed patches")

    def build_method(self) -> None:
        refuse_single_patches(self, "labeled")

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        images, target, inside = batch.labeled, as_scales(batch.target)[0], batch.labeled_inside
        shape, p = images.shape[2:], probabilities(logits[0])
        number = int(np.random.choice(self.blocks))
        grid = draw_block_masks(len(images), [min(number, extent) for extent in shape], self.mix_alpha)
        own = resize_nearest(grid.to(images.device, non_blocking=True), shape)  # a few numbers
        kept = cutout_masks(len(images), shape, hole_size(shape, self.cutout), device=images.device)

        def mix(x: Tensor) -> Tensor:
            return copy_paste(x, x.roll(-1, 0), own)

        turn = draw_turn(self.spacing, shape)
        scales, targets, back = cut_and_turned_pass(
            self.student, mix(images), mix(target), kept, turn, self.label_manager.ignore_label
        )
        terms = {
            "mixed": self.supervised_loss(scales, targets if self.enable_deep_supervision else targets[0], batch),
            "consistency": cosine_distance(probabilities(back), blend(p, p.roll(-1, 0), own), kept & mix(inside)),
        }
        if self.integrity_weight > 0:
            structure = largest_structure(hard_labels(logits[0]), self.connected)
            terms["integrity"] = cosine_distance(p, one_hot(structure, p.shape[1]), inside)
        return terms

    def weights(self) -> dict[str, float]:
        return {
            "mixed": self.mix_weight,
            "consistency": self.consistency_weight,
            "integrity": self.integrity_weight,
        }
