"""`nnunet_ssl compare`: several trainers on the same cases, case by case, with paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nnunet_ssl.data.derived import files_under_construction, left_unfinished
from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import DENSE_FOLDER, dataset_name
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.evaluation import runs as results
from nnunet_ssl.evaluation.crossval import check_folds, select_on_dense_labels
from nnunet_ssl.evaluation.figures import write_figure
from nnunet_ssl.evaluation.metrics import NOT_ANNOTATED, ClassResult, evaluate_case, not_annotated
from nnunet_ssl.evaluation.runs import Experiment, LabelDefinition, Run
from nnunet_ssl.evaluation.statistics import classes_of_some, summarize
from nnunet_ssl.evaluation.tables import Head, markdown, write_reports
from nnunet_ssl.evaluation.test_predictions import PredictionSettings, find_test_cases, predict_test
from nnunet_ssl.evaluation.trained_split import FoldSplit, verify_split
from nnunet_ssl.preprocessing.dense_labels import REFERENCES as DENSE_REFERENCES

REPORT = "compare.md"
FILES = (REPORT, "compare_cases.csv", "compare_summary.csv", "compare.png")


@dataclass(frozen=True)
class _Job:
    """One prediction to evaluate; picklable."""

    trainer: str
    fold: str
    case: str
    prediction: str
    reference: str
    repair: str


def compare(
    dataset: str,
    configuration: str,
    folds: Sequence[str],
    trainers: Sequence[str],
    *,
    plans: str = "nnUNetPlans",
    test: bool = False,
    settings: PredictionSettings | None = None,
    output: Path | None = None,
    num_processes: int = 4,
    overwrite: bool = False,
    write_crossval: bool = False,
) -> Path:
    """Compare, print the report and write it with tables and figure.

    Args:
        dataset: id or name.
        folds: as on the command line, e.g. `["0"]`.
        trainers: the first is the one that the others are tested against.
        settings: how test cases are predicted; without `test` only which checkpoint is read, and whether it is trusted.
        write_crossval: also let nnU-Net choose among the trainers, on dense labels (`nnunet_ssl.evaluation.crossval`).

    Returns:
        The output folder.

    Raises:
        UserError: results or files are missing, splits differ, geometries differ, or the output exists.
    """
    settings = settings or PredictionSettings(num_processes=num_processes)
    experiment = Experiment(dataset_name(dataset), configuration, plans)
    fold_numbers = results.parse_folds(folds)
    trainers = list(trainers)
    if len(set(trainers)) < len(trainers):
        raise UserError(f"-tr names a trainer twice: {' '.join(trainers)}. Name every trainer once.")
    if write_crossval and test:
        raise UserError("--write_crossval chooses on the validation cases. Leave --test out.")
    of_predictions = [] if settings.mirroring else ["--disable_tta"]
    if settings.checkpoint_name != PredictionSettings.checkpoint_name:
        of_predictions.append(f"-chk {settings.checkpoint_name}")
    if of_predictions and not test:
        raise UserError(
            f"{' and '.join(of_predictions)}: for predictions of test cases; validation is nnU-Net's own and not made again. Leave "
            "this out, or add --test."
        )
    if num_processes < 1:
        raise UserError(f"-np {num_processes}: allowed are numbers from 1.")
    output = output_folder(dataset, configuration, folds, test) if output is None else output
    if not overwrite:
        _refuse_existing(output)

    chosen = [(trainer, fold) for trainer in trainers for fold in fold_numbers]
    runs = [results.find_run(experiment, *of, settings.checkpoint_name, settings.trust) for of in chosen]
    labels = results.label_definition(experiment, trainers)
    if write_crossval:
        check_folds(fold_numbers, labels.ignore_label is not None, labels.partial is not None)
    validations = {}
    if not test:  # before the splits are compared: an unfinished validation is not a different split
        validations = {(r.trainer, r.fold): results.validation_pairs(experiment, r, labels.file_ending) for r in runs}
    splits = {
        fold: verify_split(experiment, fold, [r for r in runs if r.fold == fold], labels.file_ending)
        for fold in fold_numbers
    }
    notes = [note for split in splits.values() for note in split.notes]
    notes += results.differing_plans(experiment, trainers)
    if test:
        cases = find_test_cases(experiment, trainers, labels.file_ending, num_processes)
        if cases.left_out:
            notes.append(f"{cases.left_out} images of imagesTs have no reference in labelsTs and were left out.")
        jobs = []
        for trainer in trainers:
            folder = predict_test(experiment, trainer, fold_numbers, cases, settings)
            jobs += _jobs_of_test(trainer, fold_numbers, folder, cases.references, labels.file_ending)
    else:
        jobs = []
        for r in runs:
            command = f"Validate again: {experiment.train_command(r.trainer, r.fold, '--val')}"
            for case, (prediction, reference) in validations[r.trainer, r.fold].items():
                jobs.append(_Job(r.trainer, str(r.fold), case, str(prediction), str(reference), command))
            if seen := r.seen_validation:
                notes.append(
                    f"{r.trainer}, fold {r.fold}: the networks that made its pseudo labels had learned {len(seen)} of its "
                    f"{len(validations[r.trainer, r.fold])} validation cases ({some(seen, results.SHOWN)}). Its results here are "
                    "too good; --test compares on the test cases."
                )
            if results.validation_is_older(r, settings.checkpoint_name):
                notes.append(
                    f"The validation of {r.trainer}, fold {r.fold}, is older than its checkpoint. If it is of an earlier "
                    f"training: {experiment.train_command(r.trainer, r.fold, '--val')}"
                )

    notes += _note_on_partial_labels(jobs, labels)
    table = _evaluate(jobs, labels, results.reader_writer(experiment, trainers[0]), num_processes)
    notes += _note_on_sparse_references(table, test)
    notes += [
        f"No reference shows {name}; {', '.join(finding)} label{'s' if len(finding) == 1 else ''} it in some case, all others "
        "nowhere. It is in no foreground mean of Dice and Jaccard; how often it was found is under *false*."
        for name, finding in classes_of_some(table, trainers, list(labels.classes)).items()
    ]
    if not test:
        for r in runs:
            references = {reference.parent.name for _, reference in validations[r.trainer, r.fold].values()}
            notes += _check_against_nnunet(experiment, r, table, labels, *references)
    groups = results.patients(experiment)
    summary = summarize(table, trainers, list(labels.classes), patients=groups)
    head = _head(experiment, fold_numbers, test, settings, table, splits, notes, groups)
    text = markdown(head, runs, summary, trainers)
    where = "test cases" if test else "validation cases"
    title = f"{experiment.dataset}, {configuration}, fold {', '.join(map(str, fold_numbers))}: {head.num_cases} {where}"
    with files_under_construction(output, REPORT) as folder:
        write_reports(folder, text, table, summary)
        write_figure(folder / "compare.png", table, trainers, list(labels.classes), title)
    print(text)
    print(f"Written to {output}: {', '.join(FILES)}")
    if write_crossval:
        references = {case: pair[1] for validation in validations.values() for case, pair in validation.items()}
        select_on_dense_labels(experiment, runs, references, num_processes)
    return output


def output_folder(dataset: str, configuration: str, folds: Sequence[str], test: bool) -> Path:
    """Where a comparison is written without `-o`."""
    name = f"compare_{configuration}_{'_'.join(map(str, results.parse_folds(folds)))}{'_test' if test else ''}"
    return nnunet_folder("nnUNet_results") / dataset_name(dataset) / name


def _refuse_existing(output: Path) -> None:
    """UserError where a comparison, or files of its names which no interrupted comparison has left, lie in the folder."""
    if (output / REPORT).exists():
        raise UserError(
            f"{output} holds a comparison already. Add --overwrite to replace it or name another folder with -o."
        )
    left = left_unfinished(output, REPORT)
    if foreign := [name for name in FILES if name not in left and (output / name).exists()]:
        raise UserError(
            f"{output} holds {', '.join(foreign)}, which would be replaced, and no comparison. Name another folder with -o, or add "
            "--overwrite."
        )


def _jobs_of_test(
    trainer: str, folds: Sequence, folder: Path, references: dict[str, Path], file_ending: str
) -> list[_Job]:
    fold = "_".join(map(str, folds))
    repair = f"Delete {folder}; the test cases are then predicted again."
    return [
        _Job(trainer, fold, case, str(folder / f"{case}{file_ending}"), str(reference), repair)
        for case, reference in references.items()
    ]


def _note_on_partial_labels(jobs: Sequence[_Job], labels: LabelDefinition) -> list[str]:
    """What is left out because the reference of a case does not annotate it."""
    references = {job.case: job.reference for job in jobs}
    counts = {name: 0 for name in labels.classes}
    for case, reference in references.items():
        for name in labels.annotated(case, reference):
            counts[name] += 1
    if all(count == len(references) for count in counts.values()):
        return []
    shown = ", ".join(f"{name} in {count}" for name, count in counts.items())
    return [
        f"Partial labels: a class is counted only in the cases that annotate it ({shown} of {len(references)} cases). nnU-Net's "
        "own summary.json counts a hidden organ that is found as an error."
    ]


def _note_on_sparse_references(table: pd.DataFrame, test: bool) -> list[str]:
    """How much of the references nobody has annotated."""
    ignored = table.groupby("case")["ignored"].max()
    sparse = ignored[ignored > 0]
    if not len(sparse):
        return []
    dense = (
        ""
        if test
        else f" Dense label maps in {DENSE_FOLDER} of the raw data set are taken instead, if all cases have one."
    )
    return [
        f"Sparse references: {len(sparse)} of {len(ignored)} have the ignore label, on average in {100 * sparse.mean():.2g} % of "
        f"their voxels, which count for nothing. These figures say little about what is not annotated.{dense}"
    ]


def _evaluate(jobs: Sequence[_Job], labels: LabelDefinition, reader, num_processes: int) -> pd.DataFrame:
    """The long table of all metrics, in a pool of processes."""
    calls = [(job, labels, reader) for job in jobs]
    found = dict(run_in_processes(_evaluate_job, calls, num_processes, "Evaluating", kept="nothing was written"))
    rows = []
    for index, job in enumerate(jobs):
        for name, of_class in found[index].items():
            for (metric, unit), value in of_class.values.items():
                rows.append(
                    {
                        "trainer": job.trainer,
                        "fold": job.fold,
                        "case": job.case,
                        "class": name,
                        "metric": metric,
                        "unit": unit,
                        "value": 100 * value if unit == "%" else value,
                        "empty": of_class.empty,
                        "ignored": of_class.ignored,
                    }
                )
    return pd.DataFrame(rows)


def _evaluate_job(job: _Job, labels: LabelDefinition, reader) -> dict[str, ClassResult]:
    annotated = labels.annotated(job.case, job.reference)
    found = evaluate_case(
        job.prediction, job.reference, annotated, labels.ignore_label, reader, job.repair, labels.codes
    )
    return {name: found[name] if name in annotated else not_annotated() for name in labels.classes}


def _check_against_nnunet(
    experiment: Experiment, run: Run, table: pd.DataFrame, labels: LabelDefinition, reference_folder: str
) -> list[str]:
    """UserError if our Dice is not the one nnU-Net wrote after its validation: then files have changed since. Returns notes.

    UserError also if it was on dense labels, of which some are missing now.
    """
    rows = table[(table["trainer"] == run.trainer) & (table["fold"] == str(run.fold)) & (table["metric"] == "Dice")]
    rows = rows[rows["empty"] != NOT_ANNOTATED]  # nnU-Net's own summary counts them
    written = results.nnunet_dice(run, labels, reference_folder)
    if not written:
        others = results.summary_folders(run)
        if not others:
            raise UserError(
                f"{run.folder / 'validation' / 'summary.json'} has no case in metric_per_case. Validate again: "
                f"{experiment.train_command(run.trainer, run.fold, '--val')}"
            )
        if DENSE_REFERENCES in others:
            raise UserError(
                f"{run.folder / 'validation' / 'summary.json'} is on dense labels, but {DENSE_REFERENCES} of "
                f"{nnunet_folder('nnUNet_preprocessed') / experiment.dataset} does not have all of its cases. Run "
                f"`nnunet_ssl preprocess_unlabeled -d {int(dataset_number(experiment.dataset))}`, or validate again on the labels "
                f"that there are: {experiment.train_command(run.trainer, run.fold, '--val')}"
            )
        here = "dense labels" if reference_folder == DENSE_REFERENCES else "the labels of the training"
        return [
            f"{run.trainer}, fold {run.fold}: evaluated here on {here} ({reference_folder}), in nnU-Net's own summary.json on "
            f"others ({', '.join(sorted(others))}), so that the two cannot be compared with each other."
        ]
    for case, name, value in rows[["case", "class", "value"]].itertuples(index=False):
        expected = 100 * written.get((case, name), math.nan)
        if not (math.isclose(value, expected, abs_tol=1e-6) or (math.isnan(value) and math.isnan(expected))):
            raise UserError(
                f"{run.folder / 'validation' / 'summary.json'}: nnU-Net found Dice {expected:.4f} % for '{name}' in {case}, "
                f"the files give {value:.4f} %. Predictions or references have changed since. Validate again: "
                f"{experiment.train_command(run.trainer, run.fold, '--val')}"
            )
    return []


def _head(
    experiment: Experiment,
    folds: Sequence,
    test: bool,
    settings: PredictionSettings,
    table: pd.DataFrame,
    splits: dict[int | str, FoldSplit],
    notes: Sequence[str],
    groups: Mapping[str, str],
) -> Head:
    prediction = "nnU-Net's final validation"
    if test:
        ensemble = f", ensemble of {len(folds)} folds" if len(folds) > 1 else ""
        mirroring = "with" if settings.mirroring else "without"
        prediction = f"nnU-Net's predictor, {settings.checkpoint_name}{ensemble}, {mirroring} mirroring"
    return Head(
        dataset=experiment.dataset,
        configuration=experiment.configuration,
        plans=experiment.plans,
        folds=folds,
        test=test,
        num_cases=table["case"].nunique(),
        num_patients=len({groups.get(case, case) for case in table["case"]}),
        split_hashes={fold: split.short_hash for fold, split in splits.items()},
        evidence={(trainer, fold): text for fold, split in splits.items() for trainer, text in split.evidence.items()},
        notes=notes,
        prediction=prediction,
    )
