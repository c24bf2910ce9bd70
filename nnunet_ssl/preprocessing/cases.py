"""Preprocessing of cases that nnU-Net's own commands leave out, case by case, so that a run that was killed costs little."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.files import damaged_file, explain_reading_error, wrong_number_of_channels
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.preprocessed import (
    FORMAT,
    complete_cases,
    get_configuration,
    load_manifest,
    load_plans,
    manifest_file,
    preprocessing_hash,
    unlabeled_folder,
)

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

# kind, the end of the folder's name -> what its cases are called
KINDS = {
    "unlabeled": "unlabeled cases",
    "dense": "dense labels for validation",
    "masks": "masks without images",
    "pseudo": "pseudo labels",
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LITTLE_SPACE = 16 * 1024**2  # bytes; below this much free space a failed write is put down to a full disk


def preprocess_cases(
    raw: RawDataset,
    plans_name: str,
    configuration: str,
    num_processes: int,
    *,
    cases: Mapping[str, list[str]],
    hashes: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
    kind: str = "unlabeled",
    into: Path | None = None,
    keep_images: bool = True,
    verbose: bool = False,
    show_progress: bool = True,
) -> None:
    """Preprocess cases into a folder beside nnU-Net's own, with the preprocessor of the plans; only what is missing is done.

    Each case is written to a temporary sibling folder and moved when it is complete, and the manifest is rewritten as
    cases finish: a run that was killed costs the unfinished cases only. A folder made with other plans is made anew. How
    many cases were done, kept and removed is printed.

    Args:
        cases: case id -> channel files, everything the folder shall hold; cases of the folder not named here are removed. A
            case without channel files is a label map alone.
        hashes: case id -> hash of what it is made from; a case whose hash has changed is redone.
        labels: case id -> label file, for cases that have one.
        kind: one of `KINDS`.
        into: where the folder lies; default: the data set's folder in nnUNet_preprocessed.
        keep_images: False: only segmentation and properties are kept, of cases whose image lies elsewhere.

    Raises:
        UserError: images that cannot be read, a wrong number of channels, a full disk, a background process that died.
            The case and the file are named; the other cases are kept.
    """
    base = raw.preprocessed
    plans_manager = load_plans(base, plans_name)
    configuration_manager = get_configuration(plans_manager, configuration)
    again = f"Run `nnunet_ssl plan_and_preprocess -d {raw.id}`, which copies it from {raw.folder}."
    dataset_json = read_json(base / "dataset.json", remedy=again)
    folder = Path(unlabeled_folder(into or base, configuration_manager, kind))
    scratch = Path(f"{folder}.unfinished")
    file = Path(manifest_file(into or base, configuration_manager, kind))
    labels = labels or {}
    expected = preprocessing_hash(plans_manager, configuration_manager)

    manifest = load_manifest(file)
    known = set(manifest["cases"]) if manifest else set()
    if manifest is not None and manifest["preprocessing_hash"] != expected:
        print(
            f"{folder.name} is stale: made with {manifest['plans_name']}, {manifest['configuration']} (preprocessing "
            f"{manifest['preprocessing_hash'][:12]}), the plans now ask for {expected[:12]}. Every case is done again."
        )
        manifest = None
    finished = dict(manifest["cases"]) if manifest else {}
    complete = complete_cases(folder, keep_images)
    removed = {*finished, *complete} - set(cases)
    kept = sorted(c for c in cases if finished.get(c) == hashes[c] and c in complete)
    finished = {case: hashes[case] for case in kept}

    def write_manifest() -> None:
        content = {
            "format": FORMAT,
            "preprocessing_hash": expected,
            "plans_name": plans_name,
            "configuration": configuration,
            "cases": finished,
        }
        write_json_atomically(content, file)

    # in this order: files of a case that the manifest does not name are never trusted
    write_manifest()
    folder.mkdir(exist_ok=True)
    _remove_cases(folder, {*known, *complete, *cases} - set(kept))
    shutil.rmtree(scratch, ignore_errors=True)

    todo = [case for case in sorted(cases) if case not in finished]
    of_all = (str(folder), str(scratch), plans_manager, configuration_manager, dataset_json, keep_images, verbose)
    jobs = [(case, cases[case], labels.get(case), *of_all) for case in todo]
    description = f"Preprocessing {kind}, {configuration}"
    problems = []
    try:
        for index, (problem, full) in run_in_processes(
            _preprocess_case, jobs, num_processes, description, show_progress
        ):
            if full:
                raise UserError(problem)  # the other cases would fail too
            if problem:
                problems.append(problem)
                continue
            finished[todo[index]] = hashes[todo[index]]
            write_manifest()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if problems:
        raise UserError(
            f"{len(problems)} of {len(cases)} {kind} cases failed, {len(finished)} are finished and kept:\n"
            + "\n".join(sorted(problems))
        )
    print(
        f"{raw.name}, {plans_name}, {configuration}: {KINDS[kind]}: {len(todo)} done, {len(kept)} kept, "
        f"{len(removed)} removed"
    )


# of nnU-Net's preprocessed cases, those of earlier versions too
CASE_ENDINGS = (".pkl", ".b2nd", "_seg.b2nd", ".npz", ".npy", "_seg.npy")


def _remove_cases(folder: Path, cases: Collection[str]) -> None:
    """Delete the files of these cases, properties first, so that a half-deleted case is not complete. No other file.

    Raises:
        UserError: the folder is a link, which is not followed.
    """
    files = [folder / f"{case}{ending}" for ending in CASE_ENDINGS for case in sorted(cases)]
    files = [file for file in files if file.is_file() and not file.is_symlink()]
    if files and folder.is_symlink():
        raise UserError(
            f"{folder} is a link to {folder.resolve()}, in which {files[0].name} would be deleted. Nothing was deleted. Replace "
            "the link by the folder, or remove the link, and run the command again."
        )
    for file in files:
        file.unlink()


# ---------------------------------------------------------------------------------------------------------------- one case


def _preprocess_case(
    case: str,
    image_files: list[str],
    label_file: str | None,
    folder: str,
    scratch: str,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    dataset_json: dict,
    keep_images: bool,
    verbose: bool,
) -> tuple[str, bool]:
    """Preprocess one case into `scratch/<case>` and move it to `folder`. Returns (what is wrong or "", disk is full)."""
    own = Path(scratch) / case
    files = image_files or [label_file]
    problem = damaged_file(case, files)
    if problem is not None:
        return problem, False
    try:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        preprocessor_class = configuration_manager.preprocessor_class
        preprocessor = (preprocessor_class if image_files else _for_label_maps(preprocessor_class))(verbose=verbose)
        preprocessor.run_case_save(
            str(own / case), image_files, label_file, plans_manager, configuration_manager, dataset_json
        )
        channels = _stored_channels(own, case)
        expected = len(configuration_manager.normalization_schemes)
        if channels != expected:
            return wrong_number_of_channels(case, image_files, channels, expected), False
        if not keep_images:
            (own / f"{case}.b2nd").unlink()  # nnU-Net's preprocessor writes no other format
        # the properties go last: a case whose move was interrupted is not complete
        for file in sorted(own.iterdir(), key=lambda file: file.suffix == ".pkl"):
            os.replace(file, Path(folder) / file.name)
        return "", False
    except Exception as error:  # one bad case must not cost the others; what happened is reported for each of them
        full = isinstance(error, OSError) and error.errno in _NO_SPACE
        problem = None if full else explain_reading_error(case, files, plans_manager.image_reader_writer_class)
        if problem is not None:
            return problem, False
        free = shutil.disk_usage(folder).free
        if full or free < _LITTLE_SPACE:
            return (
                f"case {case}: it could not be written to {folder} ({free // 1024**2} MiB are free there). Free some "
                "space and run the command again; what is finished is kept.",
                True,
            )
        return f"case {case} ({', '.join(files)}): {type(error).__name__}: {error}", False
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _for_label_maps(preprocessor_class: type) -> type:
    """The preprocessor for label maps without an image: a constant image, of which nothing is cropped."""

    class LabelMapPreprocessor(preprocessor_class):
        def run_case(self, image_files, seg_file, plans_manager, configuration_manager, dataset_json):
            segmentation, properties = plans_manager.image_reader_writer_class().read_seg(seg_file)
            channels = len(configuration_manager.normalization_schemes)
            image = np.ones((channels, *segmentation.shape[1:]), np.float32)
            return self.run_case_npy(
                image, segmentation, properties, plans_manager, configuration_manager, dataset_json
            )

    return LabelMapPreprocessor


def _stored_channels(folder: Path, case: str) -> int:
    """Number of channels of the image that was written; raises where it cannot be read back."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    image = infer_dataset_class(str(folder))(str(folder), [case]).load_case(case)[0]
    # the last voxel too: a write that was cut short is noticed here and not while training
    image[(slice(-1, None),) * len(image.shape)]
    return int(image.shape[0])
