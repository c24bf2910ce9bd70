"""Predictions of test cases by nnU-Net's predictor, made again only when something has changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.derived import under_construction
from nnunet_ssl.data.files import file_hash
from nnunet_ssl.data.geometry import has_spacing_files, other_axes, spacing_file
from nnunet_ssl.data.label_files import checked_label_files
from nnunet_ssl.data.listing import files_with_ending
from nnunet_ssl.data.locks import only_writer
from nnunet_ssl.data.model_files import check_same_data, load_predictor
from nnunet_ssl.data.ownership import refuse_to_replace
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, read_case
from nnunet_ssl.data.staging import recover
from nnunet_ssl.errors import UserError, listed, some
from nnunet_ssl.evaluation.runs import SHOWN, Experiment, Fold, load_json, plans_of

RECORD_FILE = "compare_record.json"  # beside the predictions: what they were made with
PREDICTIONS = "predictions"  # key of the record: file -> hash


@dataclass(frozen=True)
class TestCases:
    """Images and references of the test cases. `left_out`: number of images without a reference."""

    __test__ = False  # not a test class of pytest

    images: dict[str, list[Path]]
    references: dict[str, Path]
    left_out: int


@dataclass(frozen=True)
class PredictionSettings:
    """How stock nnU-Net predicts."""

    checkpoint_name: str = "checkpoint_final.pth"
    device: str = "cuda"
    mirroring: bool = True
    num_processes: int = 4
    trust: bool = False  # checkpoints and plans that would be executed, see `data/model_files.py`


def find_test_cases(
    experiment: Experiment, trainers: Sequence[str], file_ending: str, num_processes: int = 1
) -> TestCases:
    """Cases of `labelsTs` with their images in `imagesTs`.

    Args:
        file_ending: with which the models were trained.

    Raises:
        UserError: there are none, images or channels are missing, the raw data set cannot be used or has another file ending, other
            classes or channels than the trainers' models, or label maps cannot be read or hold numbers of no class.
    """
    data = RawDataset.open(experiment.dataset)
    raw = data.folder
    if data.file_ending != file_ending:
        raise UserError(
            f"{raw / 'dataset.json'}: 'file_ending' is {data.file_ending}, but the models were trained with {file_ending}. Convert "
            "the images, or train with the present data set."
        )
    for trainer in trainers:
        check_same_data(experiment.model_folder(trainer), data)
    references = files_with_ending(raw / "labelsTs", file_ending)
    if not references:
        raise UserError(
            f"{raw / 'labelsTs'} holds no label file (*{file_ending}), so that the test cases cannot be evaluated. Put the "
            "labels of imagesTs there, named CASE"
            + file_ending
            + ", or compare on the validation cases, without --test."
        )
    images = {case: [Path(file) for file in files] for case, files in data.test.items()}
    missing = sorted(references.keys() - images.keys())
    if missing:
        raise UserError(
            f"{raw / 'imagesTs'} has no image CASE_0000{file_ending} for {len(missing)} cases of labelsTs: "
            f"{some(missing, SHOWN)}. Put the images there or take the labels away."
        )
    # before hours of prediction
    files = {case: str(file) for case, file in references.items()}
    checked_label_files(data, files, "reference", num_processes, show_progress=True, may_ignore=True)
    return TestCases({case: images[case] for case in references}, references, len(images) - len(references))


def predict_test(
    experiment: Experiment, trainer: str, folds: Sequence[Fold], cases: TestCases, settings: PredictionSettings
) -> Path:
    """Folder with the predictions of the test cases by stock nnU-Net, the folds as an ensemble; made if it is not there.

    It lies beside the folds: `test_folds_0_1`. Predictions are made in a hidden folder of the process and renamed together with a
    record of the checkpoints (by content), images and settings they were made with. They are made again if one has changed, or
    a prediction itself.

    Raises:
        UserError: a checkpoint is missing or cannot be loaded, no CUDA device, or the folder was not written by this function.
    """
    model_folder = experiment.model_folder(trainer)
    checkpoints = [model_folder / f"fold_{fold}" / settings.checkpoint_name for fold in folds]
    for fold, checkpoint in zip(folds, checkpoints):
        if not checkpoint.is_file():
            raise UserError(
                f"{checkpoint} does not exist: the training has not finished. Continue it: "
                f"{experiment.train_command(trainer, fold, '--c')}, or name another checkpoint with -chk."
            )
    plans = plans_of(experiment, trainer)
    previous_stage = plans.get_configuration(experiment.configuration).previous_stage_name
    previous_folder = None
    if previous_stage is not None:
        previous = Experiment(experiment.dataset, previous_stage, experiment.plans)
        previous_folder = predict_test(previous, trainer, folds, cases, settings)

    name = "test_folds_" + "_".join(map(str, folds))
    name += "" if settings.checkpoint_name == "checkpoint_final.pth" else f"_{Path(settings.checkpoint_name).stem}"
    name += "" if settings.mirroring else "_no_mirroring"
    folder = model_folder / name
    record = {
        "checkpoints": {str(fold): file_hash(checkpoint) for fold, checkpoint in zip(folds, checkpoints)},
        "images": {
            case: _hashes(_with_spacing(paths, plans.image_reader_writer_class))
            for case, paths in sorted(cases.images.items())
        },
        "mirroring": settings.mirroring,
        "previous_stage": load_json(previous_folder / RECORD_FILE) if previous_folder else None,
    }
    with only_writer(folder):
        _make_predictions(folder, record, model_folder, trainer, folds, cases, settings, previous_folder)
    return folder


def _with_spacing(image_files: Sequence[Path], reader_writer_class: type) -> list[Path]:
    """All that nnU-Net reads of an image: its files, and beside 3D TIFFs the one with their spacing, where it is there."""
    if not has_spacing_files(reader_writer_class):
        return list(image_files)
    spacings = {spacing_file(file, is_image=True) for file in image_files}
    return [*image_files, *sorted(file for file in spacings if file.is_file())]


def are_there(folder: Path, made: object) -> bool:
    """Whether the files of the record `made`, name -> hash, are in the folder as they were. A pipe would never end."""
    if not isinstance(made, dict):
        return False
    return made == _hashes(file for file in folder.iterdir() if file.name in made and file.is_file())


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: file_hash(file) for file in files}


def _check_images(cases: TestCases, reader_writer_class: type, num_processes: int) -> None:
    """UserError that names all images that cannot be predicted; in nnU-Net's workers they would be one message of many lines."""
    names = list(cases.images)
    example = str(next(iter(cases.images.values()))[0])
    jobs = [(name, [str(path) for path in cases.images[name]], example, reader_writer_class) for name in names]
    found = run_in_processes(_fault_of_image, jobs, num_processes, "Checking test images", kept="nothing was written")
    if faults := sorted(fault for _, fault in found if fault):
        raise UserError(f"{len(faults)} of {len(names)} test images cannot be predicted:\n{listed(faults)}")


def _fault_of_image(case: str, image_files: list[str], example: str, reader_writer_class: type) -> str:
    try:
        read_case(case, image_files, reader_writer_class)
        return other_axes(case, image_files, example, reader_writer_class) or ""
    except UserError as error:
        return str(error)


def _make_predictions(
    folder: Path,
    record: dict,
    model_folder: Path,
    trainer: str,
    folds: Sequence[Fold],
    cases: TestCases,
    settings: PredictionSettings,
    previous_folder: Path | None,
) -> None:
    """Predict into `folder`, unless it holds these predictions."""
    recover(folder)
    if folder.is_dir():
        if not (folder / RECORD_FILE).is_file():
            raise UserError(f"{folder} was not written by this command ({RECORD_FILE} is missing). Move it away.")
        present = load_json(folder / RECORD_FILE)
        changed = [key for key in record if present.get(key) != record[key]]
        made = present.get(PREDICTIONS)  # an earlier version has not recorded them
        if made is not None and not are_there(folder, made):
            changed.append(PREDICTIONS)
        if not changed:
            print(f"{trainer}: predictions of the test cases are there: {folder}")
            return
        refuse_to_replace(folder, [], "the folder another name")
        print(f"{trainer}: predictions of the test cases are made again, changed since: {', '.join(changed)}")
    predictor = load_predictor(
        model_folder,
        folds,
        settings.checkpoint_name,
        device=settings.device,
        trust=settings.trust,
        use_mirroring=settings.mirroring,
    )
    _check_images(cases, predictor.plans_manager.image_reader_writer_class, settings.num_processes)
    processes = max(1, min(settings.num_processes, len(cases.images)))
    with under_construction(folder) as unfinished:
        try:
            predictor.predict_from_files(
                [[str(path) for path in paths] for paths in cases.images.values()],
                [str(unfinished / case) for case in cases.images],
                num_processes_preprocessing=processes,
                num_processes_segmentation_export=processes,
                folder_with_segs_from_prev_stage=None if previous_folder is None else str(previous_folder),
            )
        except RuntimeError as error:  # of its workers, which a full disk or memory has ended
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise UserError(
                f"nnU-Net stopped while it predicted into {folder.parent} ({reason}); nothing was kept. Free some memory or disk "
                "space, or give fewer processes (-np), and run the command again."
            ) from error
        made = _hashes(sorted(unfinished.iterdir()))
        write_json_atomically(record | {PREDICTIONS: made}, unfinished / RECORD_FILE)
