"""Whether labels with ignored voxels have patches without any, for methods that need whole objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import maximum_filter1d

from nnunet_ssl.errors import UserError


def has_whole_patch(ignored: np.ndarray, patch_size: Sequence[int]) -> bool:
    """Whether a patch of this size lies somewhere in the image without an ignored voxel.

    Args:
        ignored: bool `(*spatial)`.
        patch_size: voxels along the last axes; along an axis on which the image is shorter, all of the image.
    """
    found = np.asarray(ignored, dtype=np.uint8)
    for axis, size in enumerate(patch_size, start=found.ndim - len(patch_size)):
        voxels = found.shape[axis]
        size = min(size, voxels)
        of_window = maximum_filter1d(found, size, axis)
        found = of_window.take(range(size // 2, voxels - size + size // 2 + 1), axis)
    return not found.all()


def refuse_without_whole_patches(trainer) -> None:
    """For methods that learn distances to the surfaces of objects, when the training cases are known.

    Raises:
        UserError: no training case has a patch without ignored voxels, as with scribbles.
    """
    if not trainer.label_manager.has_ignore_label:
        return
    cases = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(trainer.cases.train))
    patch_size, ignore_label = trainer.configuration_manager.patch_size, trainer.label_manager.ignore_label
    if not any(
        has_whole_patch(np.asarray(cases.load_case(case)[1][0]) == ignore_label, patch_size)
        for case in trainer.cases.train
    ):
        raise UserError(
            f"{trainer.preprocessed_dataset_folder_base}: no training case has a patch of {list(patch_size)} voxels without "
            f"ignored ones. {type(trainer).__name__} learns the distance to the surface of objects, which such labels do not tell. "
            "Annotate whole patches, or take a trainer for sparse labels (`nnunet_ssl trainers`)."
        )
    trainer.print_to_log_file(
        "Labeled patches with ignored voxels teach no distances (term sdf): an object may go on where nothing is annotated."
    )
