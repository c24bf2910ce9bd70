"""The base of trainers for partial labels: every case has only some of the classes annotated.

Which ones is said by the key `partial_labels` of dataset.json (`nnunet_ssl.data.annotated_classes`). A method replaces the loss on
labeled patches; where every case annotates everything, the step is the one of `nnUNetTrainer`, bit for bit.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import load_summary_json, save_summary_json
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn
from torch import Tensor

from nnunet_ssl.data.annotated_classes import KEY, PartialLabels, Target
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.prediction import inference_network_in_place
from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.region import one_hot, split_ignored
from nnunet_ssl.predictions.candidates import annotation_matrix
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.preprocessing.dense_labels import DenseLabels
from nnunet_ssl.trainer import nnUNetTrainerSSL

RESTRICTED_SUMMARY = "summary_annotated.json"


class nnUNetTrainerPartial(nnUNetTrainerSSL):
    """Base class of methods for partial labels.

    Attributes:
        sampling: how often patches are drawn from a case: "sqrt" ~ 1/sqrt(cases of its source), "uniform", or "class_balanced".
        needs_partial_labels: False: a data set without the key has all classes annotated in all cases.
    """

    needs_unlabeled = False
    knows_partial_labels = True
    needs_partial_labels: bool = True
    sampling: Literal["sqrt", "uniform", "class_balanced"] = "sqrt"  # MultiTalent

    # ------------------------------------------------------------------------------------------------- what methods call

    def partial_loss(
        self, logits: Tensor, target: Tensor, annotated: Tensor, mask: Tensor | None, batch: SSLBatch
    ) -> Tensor:
        """The loss of one scale on partially annotated patches.

        Args:
            logits: `(L, C, *spatial)`.
            target: nnU-Net's, without the ignore label: class indices `(L, 1, *spatial)`, or regions `(L, R, *spatial)`.
            annotated: bool `(L, K)`, K foreground classes or regions.
            mask: bool `(L, 1, *spatial)`, False for the ignore label; None without one.
        """
        raise NotImplementedError

    @functools.cached_property
    def everything_annotated(self) -> bool:
        """Whether all training and validation cases of the fold annotate all classes."""
        used = itertools.chain(*self.do_split())
        return all(self.partial.is_annotated(case, target) for case in used for target in self.targets)

    def annotates(self, case: str) -> set[Target]:
        return {target for target in self.targets if self.partial.is_annotated(case, target)}

    def annotated_in(self, cases: Sequence[str]) -> Tensor:
        """Which foreground classes (or regions) are annotated in these cases, bool `(len(cases), K)`."""
        targets = self.targets
        columns = [self.partial.columns(str(case), targets) for case in cases]
        return annotation_matrix(columns, len(targets), self.device)

    def supervised_loss(self, logits: list[Tensor], target: Tensor | list[Tensor], batch: SSLBatch) -> Tensor:
        """nnU-Net's loss if all cases of the run annotate everything, else `partial_loss` of each scale with nnU-Net's weights."""
        # not decided per batch: under DDP all processes must take the same way through batch Dice
        if self.everything_annotated:
            return super().supervised_loss(logits, target, batch)
        annotated = self.annotated_in(batch.keys)
        if self.gate is not None:
            self.gate.count(logits, target, annotated)
        return self._partial_loss(logits, target, annotated, batch)

    def _partial_loss(self, logits, target, annotated: Tensor, batch: SSLBatch) -> Tensor:
        targets = target if isinstance(target, list) else [target]
        losses = []
        for weight, scale, of_scale in zip(self.scale_weights, logits, targets, strict=True):
            if weight:
                plain, mask = split_ignored(of_scale, self.label_manager.ignore_label, self.label_manager.has_regions)
                losses.append(weight * self.partial_loss(scale, plain, annotated, mask, batch))
        return sum(losses[1:], losses[0])

    # ------------------------------------------------------------------------------------------------------- start-up

    def check_supported(self) -> None:
        super().check_supported()
        file = Path(self.preprocessed_dataset_folder_base, "dataset.json")
        content = dict(self.dataset_json)
        if not self.needs_partial_labels:
            content.setdefault(KEY, {"default": "all"})
        found = PartialLabels.of(content, file)
        if found is None:
            raise UserError(
                f"{file} has no key '{KEY}', which says what is annotated in which case, and {type(self).__name__} needs it. "
                "`nnunet_ssl merge` writes it; docs/partial_labels.md describes it. If every case annotates everything: "
                f'"{KEY}": {{"default": "all"}}.'
            )
        self.partial = found

    def find_cases(self) -> None:
        super().find_cases()
        if KEY not in self.dataset_json:
            return
        cases = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
        hidden = self.cases.hidden  # nothing that tells about hidden labels is read
        present = {case: self.shown_in(case) for case in cases if case not in hidden}
        file = Path(self.preprocessed_dataset_folder_base, LIST_FILE)
        test = UnlabeledList.load(file).test if file.is_file() else ()
        self.partial.check(present, [*hidden, *test])
        for line in self.partial.summary({case: present[case] for case in self.cases.train}, self.targets):
            self.print_to_log_file(line)
        if self.everything_annotated:
            self.print_to_log_file("Every case annotates all classes: training is nnU-Net's own.")

    def case_probabilities(self, cases: Sequence[str]) -> np.ndarray | None:
        return self.partial.probabilities([str(case) for case in cases], self.targets, self.sampling)

    # ----------------------------------------------------------------------------------------------------- validation

    def dense_labels(self) -> DenseLabels | None:
        found = super().dense_labels()
        self._dense_validation = found is not None
        return found

    def _annotated_in_validation(self, cases: Sequence[str]) -> Tensor:
        """As `annotated_in`; dense validation labels have everything."""
        annotated = self.annotated_in(cases)
        return torch.ones_like(annotated) if self._dense_validation else annotated

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, with the method's loss; classes that a case does not annotate do not enter the pseudo Dice."""
        if self.everything_annotated:
            return super().validation_step(batch)
        moved = SSLBatch.from_loader(batch, self.view_names, self.device)
        annotated = self._annotated_in_validation(moved.keys)
        with inference_network_in_place(self), self.autocast():
            output = self.network(moved.labeled)
            scales = output if self.enable_deep_supervision else [output]
            loss = self._partial_loss(scales, moved.target, annotated, moved)
        target = moved.target[0] if isinstance(moved.target, list) else moved.target
        regions = self.label_manager.has_regions
        plain, mask = split_ignored(target, self.label_manager.ignore_label, regions)
        channels = scales[0].shape[1]
        predicted = one_hot(hard_labels(scales[0], self.activation), channels, self.activation)
        counts = get_tp_fp_fn_tn(predicted, plain, tuple(range(2, plain.ndim)), mask)[:3]
        first = 0 if regions else 1
        tp, fp, fn = (torch.where(annotated, c[:, first:], 0).sum(0).cpu().numpy() for c in counts)
        return {"loss": loss.detach().cpu().numpy(), "tp_hard": tp, "fp_hard": fp, "fn_hard": fn}

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0 and KEY in self.dataset_json and not self._dense_validation:
            self._summarize_annotated(Path(self.output_folder, "validation"))

    def _summarize_annotated(self, folder: Path) -> None:
        """A second summary of the final validation, in which a class counts only in the cases that annotate it."""
        summary = restricted_summary(
            load_summary_json(str(folder / "summary.json")), self.partial, self.dataset_json["file_ending"]
        )
        save_summary_json(summary, str(folder / RESTRICTED_SUMMARY))
        self.print_to_log_file(
            f"Over annotated classes of each case only, mean validation Dice: {summary['foreground_mean']['Dice']:.4f} "
            f"({RESTRICTED_SUMMARY}). summary.json and the mean above count hidden organs as errors."
        )


def restricted_summary(summary: dict, partial: PartialLabels, file_ending: str) -> dict:
    """nnU-Net's `summary.json` as loaded, with NaN for classes that a case does not annotate and means over the others."""
    summary = copy.deepcopy(summary)
    for entry in summary["metric_per_case"]:
        case = Path(entry["reference_file"]).name.removesuffix(file_ending)
        for target, metrics in entry["metrics"].items():
            if not partial.is_annotated(case, target):
                entry["metrics"][target] = dict.fromkeys(metrics, float("nan"))

    def mean(values: list[float]) -> float:
        counted = [value for value in values if not np.isnan(value)]
        return float(np.mean(counted)) if counted else float("nan")

    for target, means in summary["mean"].items():
        for metric in means:
            means[metric] = mean([entry["metrics"][target][metric] for entry in summary["metric_per_case"]])
    for metric in summary["foreground_mean"]:
        summary["foreground_mean"][metric] = mean([means[metric] for means in summary["mean"].values()])
    return summary
