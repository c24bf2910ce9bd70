"""Partial cross entropy: nnU-Net's own loss on annotated voxels, the baseline of all methods for sparse labels.

Gotkowski et al., "Embarrassingly Simple Scribble Supervision for 3D Medical Segmentation", arXiv:2403.12834 (nnU-Net with partial
loss, the strongest general baseline of ScribbleBench); cross entropy of annotated voxels: Tang et al., CVPR 2018, arXiv:1804.01346.

    L = CE_w(A) + Dice(A),    CE_w = sum_A -w_y ln p_y / sum_A w_y,    A: annotated voxels
    w_c = 1, or with `class_weighted` clip(n / (C n_c), lowest_weight, highest_weight)

Without class weights the trainer is `nnUNetTrainer` on a data set with the ignore label, under a name of its own, and with the
validation on dense labels that all trainers for sparse labels have.

Class weights: as the wpCE of Valvano et al., "Learning to Segment From Scribbles Using Multi-Scale Adversarial Attention Gates",
IEEE TMI 2021, arXiv:2007.01152, but counted once over the training set instead of in every batch, limited, and with a mean over the
weights instead of over all voxels. The Dice term stays.
"""

from __future__ import annotations

from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_ssl.dataloading.label_counts import count_annotated
from nnunet_ssl.engine.value_ranges import Weight
from nnunet_ssl.losses.partial_cross_entropy import inverse_frequency_weights
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerScribblePCE(nnUNetTrainerWeak):
    """Partial cross entropy and Dice: nnU-Net with the ignore label, class weights as an option.

    Passes per step: nnU-Net's.
    """

    class_weighted: bool = False  # rare classes weigh more in the cross entropy
    lowest_weight: Weight = 0.1  # of a class, see above
    highest_weight: Weight = 10.0  # of a class, see above

    def check_supported(self) -> None:
        super().check_supported()
        if self.class_weighted and self.label_manager.has_regions:
            raise NotImplementedError(
                f"{type(self).__name__}.class_weighted weighs classes that exclude each other; regions do not, and nnU-Net's "
                "loss has a binary cross entropy for each. Set it to False, or train with classes instead of regions."
            )

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.class_weighted:
            self._weigh_classes()

    def _weigh_classes(self) -> None:
        dataset = self.dataset_class(self.preprocessed_dataset_folder, list(self.cases.train))
        counts = count_annotated(
            dataset,
            self.cases.train,
            self.label_manager.num_segmentation_heads,
            padding=self.padding == "background",
            num_threads=max(1, get_allowed_n_proc_DA()),
        )
        weights = inverse_frequency_weights(counts, self.lowest_weight, self.highest_weight)
        loss = self.loss.loss if self.enable_deep_supervision else self.loss
        loss.ce.weight = weights.to(self.device)
        shown = ", ".join(
            f"{n} voxels of {c}: {w:.3g}" for c, (n, w) in enumerate(zip(counts.tolist(), weights.tolist()))
        )
        self.print_to_log_file(f"Weights of the classes in the cross entropy, from the annotated voxels: {shown}")
