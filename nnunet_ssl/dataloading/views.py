"""Views of an unlabeled patch: one geometry, several intensities.

The transforms are those of nnU-Net's training pipeline, taken apart: what moves voxels is applied once, so that all views of
a patch can be compared voxel by voxel; what changes intensities is applied to each view on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform

from nnunet_ssl.dataloading.recorder import Recorder

_LABEL_ONLY = (
    Recorder,
    RemoveLabelTansform,
    ConvertSegmentationToRegionsTransform,
    DownsampleSegForDSTransform,
    MoveSegAsOneHotToDataTransform,
)


def _changes_intensity_only(transform: BasicTransform) -> bool:
    if isinstance(transform, RandomTransform):
        return _changes_intensity_only(transform.transform)
    if isinstance(transform, OneOfTransform):
        return all(map(_changes_intensity_only, transform.list_of_transforms))
    if isinstance(transform, ComposeTransforms):
        return all(map(_changes_intensity_only, transform.transforms))
    return isinstance(transform, (ImageOnlyTransform, MaskImageTransform))


def split_transforms(transforms: ComposeTransforms) -> tuple[list[BasicTransform], list[BasicTransform]]:
    """nnU-Net's training transforms as (geometry, intensity), each in its order; transforms of labels are left out."""
    geometry, intensity = [], []
    for transform in transforms.transforms:
        if not isinstance(transform, _LABEL_ONLY):
            (intensity if _changes_intensity_only(transform) else geometry).append(transform)
    return geometry, intensity


def label_transforms(transforms: ComposeTransforms) -> ComposeTransforms:
    """nnU-Net's training transforms for label maps without an image: geometry and labels, at full resolution."""
    left_out = (Recorder, DownsampleSegForDSTransform)
    return ComposeTransforms(
        [t for t in transforms.transforms if not _changes_intensity_only(t) and not isinstance(t, left_out)]
    )


class StackedViews(BasicTransform):
    """Turns an image `(C, *spatial)` into its views, stacked along channels `(V*C, *spatial)`; the segmentation stays.

    Args:
        views: name -> intensity transforms of this view.
    """

    def __init__(self, views: Mapping[str, Sequence[BasicTransform]]):
        super().__init__()
        self.views = {name: ComposeTransforms(list(transforms)) for name, transforms in views.items()}

    def __call__(self, **data) -> dict:
        # MaskImageTransform and some intensity transforms write in place: every view starts from its own copy
        images = [
            view(image=data["image"].clone(), segmentation=data["segmentation"])["image"]
            for view in self.views.values()
        ]
        return data | {"image": torch.cat(images)}


def with_views(transforms: ComposeTransforms, views: Mapping[str, Sequence[BasicTransform]]) -> ComposeTransforms:
    """nnU-Net's training transforms with these views of a labeled patch in the place of its intensity transforms.

    Geometry comes first, then the views, then what changes labels only.
    """
    labels_only = [transform for transform in transforms.transforms if isinstance(transform, _LABEL_ONLY)]
    return ComposeTransforms([*split_transforms(transforms)[0], StackedViews(views), *labels_only])


def without_intensity(intensity: Sequence[BasicTransform]) -> list[BasicTransform]:
    """Of nnU-Net's intensity transforms the one that sets the outside of the non-zero mask to 0 again, for a weak view."""
    return [transform for transform in intensity if isinstance(transform, MaskImageTransform)]


def student_and_teacher(intensity: list[BasicTransform], teacher_view: str) -> dict[str, list[BasicTransform]]:
    """Views of a student with nnU-Net's intensity transforms, and of its teacher, for `unlabeled_views` and `labeled_views`.

    Args:
        teacher_view: "weak", without these transforms; or "student", the same patch, which costs no second view.

    Raises:
        ValueError: another `teacher_view`.
    """
    if teacher_view not in ("weak", "student"):
        raise ValueError(f"teacher_view must be 'weak' or 'student', got {teacher_view!r}")
    weak = {"weak": without_intensity(intensity)} if teacher_view == "weak" else {}
    return {"student": intensity} | weak


class _SharedRectangles(BlankRectangleTransform):
    """The same rectangles in all channels: what one channel hides, another would show."""

    def get_parameters(self, image: torch.Tensor, **data) -> dict:
        of_one = super().get_parameters(image=image[:1], **data)
        return {name: values * len(image) for name, values in of_one.items()}


def with_blank_rectangles(
    intensity: Sequence[BasicTransform], patch_size: Sequence[int], probability: float
) -> list[BasicTransform]:
    """nnU-Net's intensity transforms with 1 to 4 rectangles of their mean intensity, for a view that hides something.

    The sizes are those of nnUNetTrainerDA5: a tenth to a third of the patch along each axis. Differs from it: all channels have the
    same rectangles. What nnU-Net sets to 0 outside the non-zero mask stays 0.

    Args:
        patch_size: voxels, of the patch that is trained on.
        probability: of a patch to get rectangles.
    """
    sizes = tuple((max(1, p // 10), max(2, p // 3)) for p in patch_size)
    rectangles = RandomTransform(_SharedRectangles(sizes, torch.mean, (1, 5)), probability)
    masks = without_intensity(intensity)
    return [*(transform for transform in intensity if transform not in masks), rectangles, *masks]


class UnlabeledViews(BasicTransform):
    """Turns a cropped image `(C, *spatial)` into its views, stacked along channels `(V*C, *spatial)`.

    The segmentation that comes in is 0 inside the image and -1 in the padding; it goes through the geometry and comes out
    as the mask of what lies inside the image: 0 inside, -1 outside.

    Args:
        geometry: transforms applied once, before the views part.
        views: name -> intensity transforms of this view.
        masked_channels: those that the plans normalize inside the non-zero mask (skull-stripped brains): nnU-Net sets them to 0
            outside of it, and again after augmentation. Voxels that are exactly 0 in all of them are outside.
    """

    def __init__(
        self,
        geometry: Sequence[BasicTransform],
        views: Mapping[str, Sequence[BasicTransform]],
        masked_channels: Sequence[int] = (),
    ):
        super().__init__()
        self.geometry = ComposeTransforms(list(geometry))
        self._stacked = StackedViews(views)
        self.masked_channels = list(masked_channels)

    @property
    def views(self) -> dict[str, ComposeTransforms]:
        return self._stacked.views

    def __call__(self, image: torch.Tensor, segmentation: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.masked_channels:
            outside = (image[self.masked_channels] == 0).all(0, keepdim=True)
            segmentation = segmentation.masked_fill(outside, -1)
        return self._stacked(**self.geometry(image=image, segmentation=segmentation))
