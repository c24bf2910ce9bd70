"""Unlabeled images with labels that were made before the training: patches as nnU-Net draws labeled ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batchgenerators.utilities.file_and_folder_operations import load_pickle
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ssl.dataloading.dataset import UnlabeledDataset, open_b2nd
from nnunet_ssl.dataloading.recorder import Recorder
from nnunet_ssl.dataloading.streams import unlabeled_batch_size_here
from nnunet_ssl.dataloading.views import split_transforms, with_blank_rectangles, with_views


class PseudoLabeledDataset:
    """Images of unlabeled cases, each with the segmentation and the class locations of another folder.

    Has the interface that `nnUNetDataLoader` uses.

    Args:
        images: of the cases.
        folder: with `<case>_seg.b2nd` and `<case>.pkl`, as nnU-Net preprocesses a labeled case.
    """

    def __init__(self, images: UnlabeledDataset, folder: Path):
        self.images = images
        self.identifiers = images.identifiers
        self.folder = folder

    def load_case(self, case: str):
        segmentation = open_b2nd(self.folder / f"{case}_seg.b2nd")
        return self.images.load_case(case)[0], segmentation, None, load_pickle(str(self.folder / f"{case}.pkl"))


def pseudo_labeled_loader(
    trainer, labeled: nnUNetDataLoader, folder: Path, cases: Sequence[str], label_manager: LabelManager, blank: float
) -> nnUNetDataLoader:
    """Patches of `cases` with the labels in `folder`: sizes, foreground oversampling and augmentation of the labeled patches.

    Args:
        labeled: the labeled loader, with its training transforms.
        label_manager: of these labels, with an ignore label; the labeled cases may have none.
        blank: share of the patches of which rectangles are hidden, see `with_blank_rectangles`.
    """
    first = 1 if labeled.patch_size_was_2d else 0
    transforms = labeled.transforms
    if blank > 0:
        _, intensity = split_transforms(transforms)
        patch_size = trainer.configuration_manager.patch_size
        transforms = with_views(transforms, {"student": with_blank_rectangles(intensity, patch_size, blank)})
    images = UnlabeledDataset({case: trainer.cases.folders[case] for case in cases})
    loader = nnUNetDataLoader(
        PseudoLabeledDataset(images, folder),
        unlabeled_batch_size_here(trainer),
        labeled.patch_size[first:],
        labeled.final_patch_size[first:],
        label_manager,
        oversample_foreground_percent=trainer.oversample_foreground_percent,
        probabilistic_oversampling=trainer.probabilistic_oversampling,
        transforms=ComposeTransforms(_with_ignore_label(transforms.transforms, label_manager)),
    )
    # else nnU-Net draws every patch around an annotated voxel, as sparse labels need it; pseudo labels are dense
    loader.has_ignore = False
    return loader


def _with_ignore_label(transforms: Sequence[BasicTransform], label_manager: LabelManager) -> list[BasicTransform]:
    """Transforms of labeled patches, for labels that have an ignore label: with regions it is a channel of its own."""
    changed: list[BasicTransform] = []
    for transform in transforms:
        if isinstance(transform, ConvertSegmentationToRegionsTransform):
            regions = [*label_manager.foreground_regions, label_manager.ignore_label]
            transform = ConvertSegmentationToRegionsTransform(regions, transform.channel_in_seg)
        if not isinstance(transform, Recorder):
            changed.append(transform)
    return changed
