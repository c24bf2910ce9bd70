"""Dense labels for validation, of cases whose training labels are sparse or partial.

On sparse labels nnU-Net's pseudo Dice and final validation see annotated voxels only, and on partial labels they take hidden
organs for background. A raw data set may therefore have a folder `labelsTr_dense` beside `labelsTr`, with dense label maps of all
classes under the same file names. They are never trained on: they are preprocessed to `<data_identifier>_dense` and copied to
`gt_segmentations_dense`, and validation uses them when all validation cases of a fold have one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.data.atomic import copy_atomically
from nnunet_ssl.data.geometry import has_spacing_files, label_endings, spacing_file
from nnunet_ssl.data.label_files import checked_label_files
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.ownership import remove_folder
from nnunet_ssl.data.raw_dataset import DENSE_FOLDER, RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.cases import preprocess_cases
from nnunet_ssl.preprocessing.preprocessed import (
    complete_cases,
    load_manifest,
    made_from,
    manifest_file,
    preprocessing_hash,
    unlabeled_folder,
)

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

REFERENCES = "gt_segmentations_dense"
KIND = "dense"


def preprocessing_command(plans_manager: PlansManager) -> str:
    """What preprocesses the dense labels, whoever made the plans and the labeled cases: nnU-Net's own commands or ours."""
    plans = "" if plans_manager.plans_name == "nnUNetPlans" else f" -p {plans_manager.plans_name}"
    return f"nnunet_ssl preprocess_unlabeled -d {int(dataset_number(plans_manager.dataset_name))}{plans}"


def raw_dense_labels(dataset_name: str, cases: Sequence[str], file_ending: str) -> Path | None:
    """`labelsTr_dense` of the raw data set if all of these cases have a label map there; None also where nnUNet_raw is not set."""
    from nnunetv2.paths import nnUNet_raw

    if not nnUNet_raw.is_set():
        return None
    folder = Path(str(nnUNet_raw), dataset_name, DENSE_FOLDER)
    return folder if cases and all((folder / f"{case}{file_ending}").is_file() for case in cases) else None


@dataclass(frozen=True)
class DenseLabels:
    """`folder`: preprocessed cases with dense segmentations; `references`: the label files as they were."""

    folder: str
    references: Path

    @classmethod
    def of(
        cls,
        preprocessed_base: str | Path,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        cases: Sequence[str],
        file_ending: str,
    ) -> DenseLabels | None:
        """The dense labels of these cases, or None where a case has none.

        Raises:
            UserError: there are such labels, but they are not preprocessed with these plans.
        """
        references = Path(preprocessed_base, REFERENCES)
        if not cases or not all((references / f"{case}{file_ending}").is_file() for case in cases):
            return None
        folder = unlabeled_folder(preprocessed_base, configuration_manager, KIND)
        manifest = load_manifest(Path(manifest_file(preprocessed_base, configuration_manager, KIND)))
        current = manifest and manifest["preprocessing_hash"] == preprocessing_hash(
            plans_manager, configuration_manager
        )
        done = set(manifest["cases"]) & complete_cases(Path(folder)) if manifest and current else set()
        if not set(cases) <= done:
            raise UserError(
                f"{references} holds dense labels, but {folder} is missing, unfinished or made with other plans. Run "
                f"`{preprocessing_command(plans_manager)}` (it does what is missing), or delete {references} to "
                "validate on sparse labels."
            )
        return cls(folder, references)

    def evaluate(
        self, predictions: Path, plans_manager: PlansManager, dataset_json: dict, label_manager: LabelManager
    ) -> dict:
        """nnU-Net's metrics of a folder of predictions, written to its `summary.json`."""
        from nnunetv2.configuration import default_num_processes
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder

        return compute_metrics_on_folder(
            str(self.references),
            str(predictions),
            str(predictions / "summary.json"),
            plans_manager.image_reader_writer_class(),
            dataset_json["file_ending"],
            label_manager.foreground_regions if label_manager.has_regions else label_manager.foreground_labels,
            label_manager.ignore_label,
            chill=True,
            num_processes=default_num_processes,
        )


def _remove_references(folder: Path, raw: RawDataset, wanted: Collection[str] = ()) -> None:
    """The label maps that were copied here, with the spacing of TIFFs, but for the `wanted` names; other files stay."""
    maps = [file.name.removesuffix(raw.file_ending) for file in folder.glob(f"*{raw.file_ending}")]
    ours = {f"{case}{ending}" for case in maps for ending in label_endings(raw.file_ending)}
    remove_folder(folder, lambda path, file: path in ours - set(wanted) and not file.is_symlink())


def preprocess_dense(
    raw: RawDataset,
    content: UnlabeledList,
    plans_name: str,
    configurations: Sequence[str],
    num_processes: Sequence[int],
    verbose: bool = False,
    show_progress: bool = True,
) -> None:
    """Check `labelsTr_dense`, copy it to `nnUNet_preprocessed` and preprocess it.

    Raises:
        UserError: a label map has other values than dataset.json names, or another shape than the sparse one.
    """
    files = raw.dense_files()
    references = raw.preprocessed / REFERENCES
    if not files:
        _remove_references(references, raw)
        return
    hashes = checked_label_files(raw, files, "dense label map", max(num_processes), show_progress, raw.labels)
    sources = [Path(file) for file in files.values()]
    if has_spacing_files(raw.reader_writer_class):
        spacings = [spacing_file(file, is_image=False) for file in files.values()]
        sources += [file for file in spacings if file.is_file()]
    references.mkdir(parents=True, exist_ok=True)
    # never a moment without what is still valid: without it, validation would silently be on sparse labels
    for source in sources:
        copy_atomically(source, references / source.name)
    _remove_references(references, raw, {source.name for source in sources})
    hashes = {
        case: made_from(content.labeled[case].sha256, digest, raw.geometry(case)) for case, digest in hashes.items()
    }
    for configuration, processes in zip(configurations, num_processes, strict=True):
        preprocess_cases(
            raw,
            plans_name,
            configuration,
            processes,
            cases={case: raw.labeled[case] for case in files},
            hashes=hashes,
            labels=files,
            kind=KIND,
            verbose=verbose,
            show_progress=show_progress,
        )
