"""Sparse labels whose empty surroundings are ignored: nnU-Net then normalizes training images otherwise than those to predict.

Where images are mostly empty (skull-stripped heads), nnU-Net's plans normalize inside the non-zero mask (`use_mask_for_norm`). In
training it takes this mask from the segmentation: `crop_to_nonzero` writes -1 where the label is 0 and the image is empty. With the
ignore label there, nothing is written, and the surroundings enter mean and standard deviation. Images without labels (prediction,
`imagesUn`) and dense labels have the mask. So a network would learn from other intensities than it later sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.preprocessed import dataset_class_of

CASES = 3  # that are looked at
LARGEST_SHARE = 0.2  # of 8-bit images a few percent of the tissue have the most frequent intensity
_DRAWN = 100_000  # voxels, for the most frequent intensity


def constant_share(image: np.ndarray, ignored: np.ndarray) -> float:
    """Share of the ignored voxels that have, in all channels, the most frequent intensity of ignored voxels.

    Close to 0 in tissue, whose intensities vary; large where the surroundings are empty.

    Args:
        image: `(C, *spatial)`.
        ignored: bool, `(*spatial)`.
    """
    values = image[:, ignored]
    if not values.size:
        return 0.0
    some = values[:, :: max(1, values.shape[1] // _DRAWN)].round(3)
    modes = []
    for channel in some:
        found, counts = np.unique(channel, return_counts=True)
        modes.append(found[counts.argmax()])
    return float(np.all(np.abs(values - np.array(modes)[:, None]) < 1e-3, axis=0).mean())


def refuse_ignored_surroundings(
    folder: str,
    cases: Sequence[str],
    plans: PlansManager,
    configuration: ConfigurationManager,
    configuration_name: str,
    labels: LabelManager,
) -> None:
    """Look at a few labeled cases, where plans normalize inside the non-zero mask and labels have an ignore label.

    Args:
        folder: of the preprocessed labeled cases.
        cases: labeled training cases.

    Raises:
        UserError: empty surroundings have the ignore label.
    """
    if not labels.has_ignore_label or not any(configuration.use_mask_for_norm):
        return
    chosen = sorted(cases)[:CASES]
    dataset = dataset_class_of(folder, chosen)(folder, chosen)
    for case in chosen:
        image, segmentation, *_ = dataset.load_case(case)
        share = constant_share(np.asarray(image), np.asarray(segmentation)[0] == labels.ignore_label)
        if share > LARGEST_SHARE:
            number, name = int(dataset_number(plans.dataset_name)), plans.plans_name
            raise UserError(
                f"{case}: {share:.0%} of the voxels with the ignore label are empty surroundings of the image. The plans {name} "
                f"normalize inside the non-zero mask ('use_mask_for_norm' of {configuration_name}), which nnU-Net takes from the "
                "labels here: training images would be normalized with their surroundings, and images to predict without. Give "
                "the empty surroundings the label 0 in labelsTr, or set 'use_mask_for_norm' to false for every channel in "
                f"{name}.json. Then run `nnUNetv2_preprocess -d {number} -plans_name {name} -c {configuration_name}` and "
                f"`nnunet_ssl preprocess_unlabeled -d {number} -c {configuration_name} -p {name}` again."
            )
