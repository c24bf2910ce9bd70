"""`nnunet_ssl pseudo_label`: a round of labels for the unlabeled images, predicted by a finished model or made elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from nnunet_ssl.data.files import file_hash
from nnunet_ssl.data.leakage import find_overlaps, of_same_patients
from nnunet_ssl.data.list_update import prepare_lists
from nnunet_ssl.data.model_files import check_same_data, read_properties
from nnunet_ssl.data.ownership import Known, foreign_files, remove_folder
from nnunet_ssl.data.progress import progress
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError, listed, some
from nnunet_ssl.preprocessing.foreign_labels import (
    CodeMap,
    check_label_maps,
    find_label_maps,
    settings_of,
    take_label_maps,
)
from nnunet_ssl.preprocessing.preprocessed import get_configuration, load_plans, made_from
from nnunet_ssl.preprocessing.round_cases import (
    CaseScores,
    CaseWriter,
    Classes,
    Selection,
    load_scores,
    remove_cases,
)
from nnunet_ssl.preprocessing.round_prediction import Model, predict_cases
from nnunet_ssl.preprocessing.round_table import decide, summary, write_figure, write_table
from nnunet_ssl.preprocessing.rounds import (
    FILE,
    FOLDER,
    Round,
    all_rounds,
    classes_of,
    files_of_round,
    find_round,
    preprocess_round,
    uncertain_code,
)


@dataclass(frozen=True)
class Elsewhere:
    """Label maps that were made elsewhere: their folder, and the words of `--map`."""

    folder: Path
    words: Sequence[str] | None = None


@dataclass(frozen=True)
class RoundOptions:
    """How a round is written; `name`: None for the round of the same settings that was begun, else the next number."""

    name: str | None = None
    save_probabilities: bool = False
    num_processes: int = 8
    overwrite: bool = False
    show_progress: bool = True
    trust: bool = False  # preprocessed cases that would be executed, see `data/model_files.py`


def make_round(
    raw: RawDataset,
    plans_name: str,
    configuration: str,
    source: Model | Elsewhere,
    folds: Sequence[int | str],
    selection: Selection,
    options: RoundOptions,
) -> Round:
    """Label the unlabeled images, decide, and preprocess what is kept for `configuration`. What is finished is not done again.

    Args:
        folds: whose unlabeled cases are labeled; may be empty of labels that were made elsewhere, unless a fold hides labels: a
            round for any fold, whose images are validation images of none.

    Raises:
        UserError: the data set, the model or the label maps cannot be used; an unlabeled image is also a validation or test image;
            another round has the name; settings that do not fit together.
    """
    base = raw.preprocessed
    plans = load_plans(base, plans_name)
    of_plans = get_configuration(plans, configuration)
    if of_plans.previous_stage_name is not None:
        raise UserError(
            f"{configuration} is the second stage of a cascade, which trainers of this package do not train. Use the first stage "
            f"({of_plans.previous_stage_name}) or another configuration of {plans_name}."
        )
    if isinstance(source, Elsewhere) and selection.drop > 0 and selection.previous is None:
        raise UserError(
            "--drop orders label maps of --from by their instability. Name the round before with --previous."
        )
    content = prepare_lists(
        raw, options.num_processes, rehash=False, overwrite=False, show_progress=options.show_progress
    )
    cases, train = unlabeled_cases(raw, content, folds)
    always_present = _foreground_everywhere(base / of_plans.data_identifier, train, options.trust)
    classes = Classes.of(raw.dataset_json)

    files: dict[str, str] = {}
    if isinstance(source, Elsewhere):
        files = find_label_maps(source.folder, raw.file_ending, cases)
        code_map = CodeMap.of(source.words, raw.dataset_json)
        settings, cases = settings_of(source.folder, code_map), sorted(files)
    else:
        settings = source.settings()
    cases = without_held_out(raw, content, cases, folds)
    settings |= {**asdict(selection), "save_probabilities": options.save_probabilities}
    made, replaced = _open(raw, settings, options, source)
    before = None if selection.previous is None else find_round(base, selection.previous, configuration)
    if before is not None and before.name == made.name:
        raise UserError(f"--previous {before.name} is the round to be made itself. Give another name with -o.")
    if before is not None:
        before.check_classes(raw.dataset_json)
    made.trained_on = sorted({*train, *source.seen_validation()}) if isinstance(source, Model) else []
    made.ignore, made.classes = uncertain_code(raw.dataset_json), classes_of(raw.dataset_json)

    records = {**content.labeled, **content.unlabeled}
    hashes = {case: made_from(records[case].sha256, raw.geometry(case)) for case in cases}
    kept = [] if replaced is not None else cases
    scores = {case: load_scores(made, case, hashes[case], raw.file_ending) for case in kept}
    scores = {case: s for case, s in scores.items() if s and (not files or s.source == file_hash(files[case]))}
    found_before = {} if before is None else {c: load_scores(before, c, hashes[c], raw.file_ending) for c in cases}
    older = {case: s for case, s in found_before.items() if s}
    scores = {case: s for case, s in scores.items() if s.follows(older.get(case))}
    done = sorted(scores)
    images = {**raw.labeled, **raw.unlabeled}
    todo = {case: images[case] for case in cases if case not in scores}
    if todo or made.finished is None or sorted(made.cases) != sorted(cases):
        # before anything is written
        if isinstance(source, Model):
            predictor = _load(source, raw) if todo else None
        else:
            maps = {case: files[case] for case in todo}
            check_label_maps(
                maps, images, code_map, raw.reader_writer_class, options.num_processes, options.show_progress
            )
        if replaced is not None:
            (made.folder / FILE).unlink(missing_ok=True)  # first: a folder half deleted must not look like a round
            remove_folder(made.folder, replaced)
        made.finished, made.cases = None, {}
        made.folder.mkdir(parents=True, exist_ok=True)
        made.save()
        removed = remove_cases(made, done, cases, raw.file_ending)
        print(f"{made.folder}: {len(todo)} cases to do, {len(done)} kept, {len(removed)} removed")
        writer = CaseWriter(
            made,
            before,
            classes,
            selection,
            hashes,
            raw.file_ending,
            raw.reader_writer_class,
            options.save_probabilities,
        )
        if isinstance(source, Elsewhere):
            found = take_label_maps(writer, maps, images, code_map, options.num_processes, options.show_progress)
        else:
            found = _predict(predictor, writer, todo, options)
        scores |= dict(found)
        made.cases = decide(scores, selection, always_present)
        write_table(made, scores, classes)
        write_figure(made, before, scores, classes, raw)
        made.finished = datetime.now(timezone.utc).isoformat()
        made.save()
    else:
        print(f"{made.folder} is finished: {len(done)} cases")
    print("\n".join(summary(made, scores, older, classes.codes)))
    if not made.kept:
        raise UserError(f"{made.folder}: no case is kept, so there is nothing to train on. cases.csv has the reasons.")
    preprocess_round(raw, made, plans_name, configuration, options.num_processes, show_progress=options.show_progress)
    return made


# ------------------------------------------------------------------------------------------------------------------- cases


def unlabeled_cases(raw: RawDataset, content: UnlabeledList, folds: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """The unlabeled cases that all `folds` (none: all that there are) have, and the cases whose labels they train on, both sorted.

    Raises:
        UserError: there are none; folds hide different labels; a case is also a validation or test case, by name or by content.
    """
    hidden = {fold: cases for fold, cases in content.hidden_labels.items() if cases}
    if hidden and (not folds or "all" in folds):
        raise UserError(
            f"{raw.preprocessed / 'unlabeled.json'} hides labels of fold(s) {', '.join(hidden)}, so that the unlabeled cases "
            "depend on the fold. Name one of these folds with -f."
        )
    of_folds = {fold: content.unlabeled_cases(fold) for fold in folds} or {"all": sorted(content.unlabeled)}
    cases = next(iter(of_folds.values()))
    if different := [fold for fold, found in of_folds.items() if found != cases]:
        raise UserError(
            f"-f {' '.join(map(str, folds))}: fold(s) {some(map(str, different))} hide other labels than fold {folds[0]}; what is "
            "unlabeled in one was trained on in another. Make a round for each of them: -f N -o NAME."
        )
    if not cases:
        raise UserError(
            f"{raw.name} has no unlabeled cases. Put images CASE_0000{raw.file_ending} into {raw.folder / 'imagesUn'} and run "
            f"`nnunet_ssl preprocess_unlabeled -d {raw.id}`, or hide labels with `nnunet_ssl split -d {raw.id} --labeled N`."
        )
    splits = [_split(raw, fold) for fold in of_folds]
    trained = {case for train, _ in splits for case in train}
    file = raw.preprocessed / SPLITS_FILE
    if not folds and file.is_file():
        splits += [(split["train"], split["val"]) for split in load_splits(file, raw.labeled)]
    found = [overlap for split in splits for overlap in find_overlaps(content, cases, *split)]
    leaks = {str(o) for o in found if o.place != "training" or o.by == "id"}
    of_one_fold = "" if folds else " If this round is for one fold alone, name it with -f."
    if leaks:
        raise UserError(
            f"{len(leaks)} unlabeled case(s) are also labeled, validation or test cases:\n{listed(sorted(leaks))}\nA network must "
            f"not learn from predictions of them. Take them out of imagesUn (`nnunet_ssl check -d {raw.id}` lists all) and run "
            f"`nnunet_ssl preprocess_unlabeled -d {raw.id}`.{of_one_fold}"
        )
    return cases, sorted(trained)


def without_held_out(
    raw: RawDataset, content: UnlabeledList, cases: Sequence[str], folds: Sequence[int | str]
) -> list[str]:
    """`cases` without those that trainings leave out: images of patients with validation or test cases, in all folds of the round.

    Labeled all the same, they would count in `--drop` and stand in the table as kept. What one of the folds uses stays.

    Raises:
        UserError: nothing is left.
    """
    file = raw.preprocessed / SPLITS_FILE
    number = len(load_splits(file, raw.labeled)) if not folds and file.is_file() else 0
    left_out = set(cases)
    for fold in folds or ("all", *range(number)):
        train, validation = _split(raw, fold)
        left_out &= set(of_same_patients(content, cases, {*validation, *content.test} - set(train)))
    if not left_out:
        return list(cases)
    what = (
        "are of patients with validation or test cases (`groups`), and every training with this round leaves them out"
    )
    if left_out == set(cases):
        raise UserError(
            f"All {len(cases)} unlabeled images {what}. Put images of other patients into {raw.folder / 'imagesUn'}."
        )
    print(f"{len(left_out)} unlabeled image(s) {what}; so does the round: {some(sorted(left_out), 5)}.")
    return [case for case in cases if case not in left_out]


def _split(raw: RawDataset, fold: int | str) -> tuple[Sequence[str], Sequence[str]]:
    if fold == "all":
        return list(raw.labeled), ()
    file = raw.preprocessed / SPLITS_FILE
    splits = load_splits(file, raw.labeled)
    if int(fold) >= len(splits):
        raise UserError(f"-f {fold}: {file} has {len(splits)} fold(s): 0 to {len(splits) - 1} are allowed.")
    return splits[int(fold)]["train"], splits[int(fold)]["val"]


def _foreground_everywhere(folder: Path, cases: Sequence[str], trust: bool) -> bool:
    """Whether each of these labeled cases has foreground, by what nnU-Net's preprocessing noted down."""
    for case in cases:
        found = read_properties(folder / f"{case}.pkl", trust)["class_locations"]
        # with an ignore label, nnU-Net also notes down all annotated voxels, under a key that begins with -1
        if not any(len(at) for key, at in found.items() if not (isinstance(key, tuple) and key[0] == -1)):
            return False
    return True


# ------------------------------------------------------------------------------------------------------------------ the round


def _open(
    raw: RawDataset, settings: dict, options: RoundOptions, source: Model | Elsewhere
) -> tuple[Round, Known | None]:
    """The round to be made or continued, and what is to be deleted of an earlier one of its name; None: nothing.

    Raises:
        UserError: the name has other settings, or is none; a folder that may not be replaced.
    """
    base = raw.preprocessed
    rounds = {r.name: r for r in all_rounds(base)}
    name = options.name
    if name is None:
        alike = [r.name for r in rounds.values() if r.settings == settings]
        number = 1
        while f"round{number}" in rounds:
            number += 1
        name = alike[-1] if alike else f"round{number}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise UserError(
            f"-o {name}: a round's name has up to 100 letters, digits, '_' and '-', as round1. It lies in {base / FOLDER}."
        )
    folder = base / FOLDER / name
    if options.overwrite and folder.is_dir():
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a link, in which nothing is deleted. Remove it, or give another name with -o."
            )
        known = files_of_round(folder, raw.unlabeled, raw.file_ending)
        if foreign := foreign_files(folder, known):
            raise UserError(
                f"{folder} holds {len(foreign)} file(s) that `nnunet_ssl pseudo_label` has not written: {some(foreign, 5)}. "
                "Nothing was changed. Move them away, or give this round another name with -o."
            )
        if isinstance(source, Elsewhere) and source.folder.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--from {source.folder} lies in {folder}, which would be replaced. Nothing was changed. Move it out of there, or "
                "give this round another name with -o."
            )
        return Round(folder, settings, ignore=0), known
    elif name in rounds:
        present = rounds[name]
        if different := [
            key for key in {**present.settings, **settings} if present.settings.get(key) != settings.get(key)
        ]:
            raise UserError(
                f"{folder} was made with other settings: {some(different)}. Give this round another name with -o, or replace it "
                "with --overwrite."
            )
        present.check_classes(raw.dataset_json)
        return present, None
    return Round(folder, settings, ignore=0), None


def _load(model: Model, raw: RawDataset):
    """nnU-Net's predictor with the model. UserError where it cannot be loaded, or was trained on other classes or channels."""
    check_same_data(model.folder, raw)
    return model.load()


def _predict(
    predictor, writer: CaseWriter, todo: Mapping[str, list[str]], options: RoundOptions
) -> Iterator[tuple[str, CaseScores]]:
    if not todo:
        return
    with progress(len(todo), "Predicting", options.show_progress) as bar:
        for case, scores in predict_cases(predictor, todo, options.num_processes, writer.prediction):
            bar.update()
            yield case, scores
