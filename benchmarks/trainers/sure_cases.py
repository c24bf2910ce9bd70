"""SemiSupervised that begins with the unlabeled images of which it is surest, to measure what that gains: docs/studies.

In rounds, half of the images, those with the lowest entropy of the foreground, have far better labels than the others. Here the
images are ranked once, when the second stage has begun, by nnU-Net's prediction of whole images with the moving average:

    H_i = mean_{v: argmax p_v is foreground} -sum_c p_vc ln p_vc

The first half of the second stage draws from the `sure_share` with the lowest H, the second half from all (ST++, Yang et al., CVPR
2022, retrains in this order). Everything else is SemiSupervised's.
"""

from __future__ import annotations

from nnunet_ssl.engine.value_ranges import PositiveShare, Share
from nnunet_ssl.predictions.selection import foreground_entropy
from nnunet_ssl.trainers.unlabeled.semi_supervised import nnUNetTrainerSemiSupervised


class nnUNetTrainerSemiSupervisedSureCases(nnUNetTrainerSemiSupervised):
    """SemiSupervised, at first without the images of which it is unsure. Passes: a prediction of all unlabeled images more."""

    sure_share: PositiveShare = 0.5  # of the unlabeled images
    sure_until: Share = 0.5  # of the second stage

    def after_epoch(self) -> None:
        super().after_epoch()
        since = self.gate.since_opening
        if since is None:
            return
        everything, late = sorted(self.cases.folders), since >= self.sure_until * (since + 1 - self.progress)
        if late and len(self.unlabeled_pool) < len(everything):
            self.set_unlabeled_cases(everything)
        elif not late and len(self.unlabeled_pool) == len(everything) > 1:
            entropies = self.score_unlabeled(lambda p: foreground_entropy(p, self.activation))
            sure = sorted(entropies, key=entropies.__getitem__)[: max(1, round(self.sure_share * len(entropies)))]
            self.print_to_log_file(
                f"at first {len(sure)} of {len(entropies)} unlabeled images, entropy up to {entropies[sure[-1]]:.3f}"
            )
            self.set_unlabeled_cases(sure)
