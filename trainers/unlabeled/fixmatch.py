"""FixMatch: a weak view labels a strong one.

Sohn, Berthelot, Li, Zhang, Carlini, Cubuk, Kurakin, Zhang, Raffel, "FixMatch: Simplifying Semi-Supervised Learning with Consistency
and Confidence", NeurIPS 2020, arXiv:2001.07685, google-research/fixmatch. Segmentation: LiheYoung/UniMatch (fixmatch.py);
HiLab-git/SSL4MIS (train_fixmatch_standard_augs.py, train_fixmatch_cta.py).

The special case of UniMatch (`unimatch.py`) with one strong view and without perturbed features, in the form of LiheYoung/UniMatch:

    L = L_sup(x, y_x) + r strong_weight U(f(v), y; M),    y = argmax f(u),  M = [max p(u) >= confidence]

Differs from the official code as `unimatch.py` says; the weight is the sum of UniMatch's, as there. What differs in SSL4MIS is not
followed: voxels below the threshold become background, the threshold is met nearly everywhere (it compares the range of the
probabilities with the largest one), and a term for the least probable class takes 1 - p for logits. CTAugment, which works on 8-bit
images, is replaced by nnU-Net's intensity transforms.
"""

from __future__ import annotations

from nnunet_ssl.trainers.unlabeled.unimatch import nnUNetTrainerUniMatch


class nnUNetTrainerFixMatch(nnUNetTrainerUniMatch):
    """FixMatch: a weak view labels a strong one with CutMix.

    Passes per step (F+B on L+U, F on U): forward and backward on labeled patches, forward on weak ones; then forward and
    backward on strong ones.
    """

    strong_views, strong_weight, feature_weight = 1, 1.0, 0.0
