"""nnFilterMatch: self-training inside nnU-Net's own augmentation, with an entropy filter on the unlabeled images.

nnFilterMatch, 2025. Official code: Ordi117/nnFilterMatch, an nnU-Net trainer. ACDC, 3 / 7 labeled patients: Dice 89.56 / 90.06
where nnU-Net alone reaches 82.96 / 86.31.

From a start on the network's own hard decisions on unlabeled patches are targets, at every scale of deep supervision, without a
threshold and with weight 1:

    y_u = argmax f(u),   (u', y') = A(u, y_u),   L = L_nnunet(f(x), y) + L_nnunet(f(u'), y')
    joint = True:   L = L_nnunet(f([x, u']), [y, y'])

A: a rotation by 90, 180 or 270 degrees in the plane of the last two axes, and from `flip_start` on flips there. u has nnU-Net's
training augmentation already. At 1/3 and 2/3 of the run every unlabeled image that is left is predicted, and the 15 percent
with the lowest entropy, which teach the network the least, leave the pool for good.

Differs from the official code: the labeled loss keeps its full weight (official: labeled and unlabeled patches are one batch, so
that it is halved: `joint`), and unlabeled patches come in when every class is found on labeled ones (official: a share of the run,
which in a short one is over before anything is learned: `start`); y_u is computed without a graph (the official one is built and
never used); entropy is the mean over voxels, not the sum, which prefers large images; rotations only where patch, spacing and
scales are equal along the last two axes, else flips only, from the start; what lies outside an unlabeled image is background, as
nnU-Net has it for labeled ones; flips and filter are fractions of the run (official: epochs 100, and 100 and 200, of 300; one more
filter after the last epoch has no effect); nnU-Net's number of epochs and weight decay. The loss is nnU-Net's in both, so no weight
is adapted. Regions: y_u = [p > 0.5] and Bernoulli entropies.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.features import refuse_without_mirroring_in_plane
from nnunet_ssl.engine.value_ranges import Range, Share, Whole
from nnunet_ssl.patches.turns import quarter_turns_fit, turn_and_flip
from nnunet_ssl.predictions.entropy_filter import case_entropy, uncertain_cases
from nnunet_ssl.predictions.targets import join_targets, pseudo_target
from nnunet_ssl.ramps import ends_a_part
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerFilterMatch(nnUNetTrainerSSL):
    """FilterMatch: own hard decisions on rotated unlabeled patches as targets; easy images leave the pool.

    Passes per step (F+B on L+U, F on U): one forward pass of the unlabeled patches without gradient, forward and backward on
    labeled and unlabeled patches in one batch; a sliding-window prediction of all unlabeled images `filter_rounds` times in a
    run.
    """

    # of the run; None: when every class is found; official: 20 / 300 (10 % of the labels), 5 / 300 (5 %)
    start: Share | None = None
    joint: bool = False  # labeled and unlabeled patches as one batch of nnU-Net's loss, as in the official code
    flip_start: Share = 1 / 3  # of the run; official: epoch 100 of 300
    filter_rounds: Whole = 2  # evenly spread over the run; official: after epochs 100 and 200 of 300; 0: no filter
    # of the unlabeled images left, dropped per round; as in the official code
    filter_percentile: Annotated[float, Range(0, 100)] = 15.0
    filter_mirroring: bool = True  # in these predictions; as in the official code. False: 4 (2D) or 8 times faster

    def check_supported(self) -> None:
        super().check_supported()
        refuse_without_mirroring_in_plane(self, "self-training")

    def build_method(self) -> None:
        if self.start is None:
            self.register_gate()

    def weights(self) -> dict[str, float]:
        begun = self.progress >= self.start if self.gate is None else self.gate.since_opening is not None
        if self.joint:  # one loss, of which the labeled patches are a part
            return {"labeled": float(not begun), "joint": float(begun)}
        return {"pseudo": float(begun)}

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        scales = self.without_gradient(self.student, batch.unlabeled)
        targets = batch.target if isinstance(batch.target, list) else [batch.target]
        pseudo = [pseudo_target(h, t, self.activation, batch.inside) for h, t in zip(scales, targets, strict=True)]
        turn = self._random_turn(scales)
        batch.unlabeled = turn_and_flip(batch.unlabeled, *turn)
        target = join_targets(batch.target, [turn_and_flip(p, *turn) for p in pseudo])
        scales = self.student(batch.images)
        if self.joint:
            return {"joint": self.supervised_loss(scales, target, batch)}
        of_unlabeled = target[batch.num_labeled :] if isinstance(target, Tensor) else batch.unlabeled_part(target)
        labeled = self.supervised_loss(batch.labeled_part(scales), batch.target, batch)
        return {
            "labeled": labeled,
            "pseudo": self.supervised_loss(batch.unlabeled_part(scales), of_unlabeled, batch),
        }

    def _random_turn(self, scales: list[Tensor]) -> tuple[int, list[int]]:
        """Number of rotations by 90 degrees, and flipped axes, the same for all patches of the step."""
        square = quarter_turns_fit(self.configuration_manager.spacing, *(h.shape for h in scales))
        quarter_turns = np.random.randint(1, 4) if square else 0
        flips = self.progress >= self.flip_start or not square
        return quarter_turns, [axis for axis in (-2, -1) if flips and np.random.rand() < 0.5]

    def after_epoch(self) -> None:
        if not ends_a_part(self.current_epoch, self.num_epochs, self.filter_rounds + 1):
            return
        entropies = self.score_unlabeled(lambda p: case_entropy(p, self.activation), mirroring=self.filter_mirroring)
        kept = uncertain_cases(entropies, self.filter_percentile) if entropies else []
        self.print_to_log_file(f"entropy filter: {len(kept)} of {len(entropies)} unlabeled images stay")
        if len(kept) < len(entropies):
            self.set_unlabeled_cases(kept)
