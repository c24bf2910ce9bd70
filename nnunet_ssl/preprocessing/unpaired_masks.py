"""Dense masks without images: what a plausible segmentation looks like, for methods that learn this from other patients.

A raw data set may have a folder `masksUn` with label maps, named as one likes, of patients that are not in it, or not in the fold
that is trained: values as in dataset.json, without the ignore label, and with the spacing they have. They are preprocessed to
`<data_identifier>_masks` by the commands that preprocess the images, and drawn as patches in the way labeled patches are. Using
them is mixed supervision, which a comparison with methods that see scribbles alone has to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ssl.data.label_files import checked_label_files
from nnunet_ssl.data.leakage import of_same_patients
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.raw_dataset import MASKS_FOLDER, RawDataset
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList, known_groups
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.preprocessing.cases import preprocess_cases
from nnunet_ssl.preprocessing.preprocessed import (
    complete_cases,
    configuration_name,
    dataset_class_of,
    get_configuration,
    load_manifest,
    load_plans,
    manifest_file,
    preprocessing_hash,
    unlabeled_folder,
)

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

KIND = "masks"


class MaskDataset:
    """Preprocessed masks, with the interface that `nnUNetDataLoader` uses; the image is one channel of zeros.

    Args:
        folder: of the preprocessed cases.
        cases: their identifiers.
    """

    def __init__(self, folder: str, cases: Sequence[str]):
        self._cases = dataset_class_of(folder, cases)(folder, list(cases))
        self.identifiers = sorted(cases)

    def load_case(self, case: str):
        _, segmentation, _, properties = self._cases.load_case(case)
        return np.zeros((1, *segmentation.shape[1:]), np.float32), segmentation, None, properties


def unpaired_masks(
    preprocessed_base: str | Path,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    split: tuple[Sequence[str], Sequence[str]],
) -> tuple[str, list[str], list[str]]:
    """The folder of the preprocessed masks, their names, and notes for the log.

    Masks of patients (`groups`) with validation or test cases are left out.

    Args:
        split: training and validation cases of the fold.

    Raises:
        UserError: there are none, they were made with other plans or are unfinished, one has the name of a case that is
            trained, validated or tested, or all are left out.
    """
    base = Path(preprocessed_base)
    folder = Path(unlabeled_folder(base, configuration_manager, KIND))
    file = Path(manifest_file(base, configuration_manager, KIND))
    command = (
        f"nnunet_ssl preprocess_unlabeled -d {int(dataset_number(base.name))} -c "
        f"{configuration_name(plans_manager, configuration_manager)} -p {plans_manager.plans_name}"
    )
    manifest = load_manifest(file)
    if manifest is None:
        raise UserError(
            f"{folder} does not exist or is unfinished, so there are no masks of other patients to learn from. Put dense label "
            f"maps into {MASKS_FOLDER} of nnUNet_raw/{base.name}, then run `{command}`."
        )
    cases = sorted(manifest["cases"])
    current = manifest["preprocessing_hash"] == preprocessing_hash(plans_manager, configuration_manager)
    if not cases or not current or not set(cases) <= complete_cases(folder):
        raise UserError(f"{folder} is empty, unfinished or made with other plans. Run `{command}`.")
    listed = UnlabeledList.load(base / LIST_FILE) if (base / LIST_FILE).is_file() else UnlabeledList()
    listed.groups = known_groups(base)
    for place, used in (("training", split[0]), ("validation", split[1]), ("test", listed.test)):
        if both := sorted(set(cases) & set(used)):
            raise UserError(
                f"{folder}: {some(both, 5)} is (are) also {place} case(s) of this fold; masks have to be of other "
                f"patients. Remove them from {MASKS_FOLDER} of nnUNet_raw/{base.name}, or rename what only shares the name, and "
                f"run `{command}`."
            )
    left_out = of_same_patients(listed, cases, {*split[1], *listed.test} - set(split[0]))
    kept = [case for case in cases if case not in left_out]
    if not kept:
        raise UserError(
            f"{folder}: all masks are of patients with validation or test cases ('groups' of {base / LIST_FILE}). Put masks of "
            f"other patients into {MASKS_FOLDER} of nnUNet_raw/{base.name} and run `{command}`."
        )
    note = f"Note: {len(left_out)} mask(s) of patients with validation or test cases are left out: {some(left_out, 5)}."
    return str(folder), kept, [note] if left_out else []


def preprocess_masks(
    raw: RawDataset,
    plans_name: str,
    configurations: Sequence[str],
    num_processes: Sequence[int],
    verbose: bool = False,
    show_progress: bool = True,
) -> None:
    """Check and preprocess the label maps in `masksUn`; masks that are no longer there go.

    Raises:
        UserError: a label map cannot be read, or has other values than dataset.json names.
    """
    files, base = raw.mask_files(), raw.preprocessed
    hashes = checked_label_files(raw, files, "mask", max(num_processes), show_progress) if files else {}
    plans_manager = load_plans(raw.preprocessed, plans_name)
    for configuration, processes in zip(configurations, num_processes, strict=True):
        manifest = manifest_file(base, get_configuration(plans_manager, configuration), KIND)
        if not files and not Path(manifest).is_file():
            continue
        preprocess_cases(
            raw,
            plans_name,
            configuration,
            processes,
            cases={name: [] for name in files},
            hashes=hashes,
            labels=files,
            kind=KIND,
            verbose=verbose,
            show_progress=show_progress,
        )
