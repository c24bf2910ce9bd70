"""`nnunet_ssl check`: what a data set holds, and whether anything of the test or validation part leaks into training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ssl.data.files import wrong_number_of_channels
from nnunet_ssl.data.geometry import orientation, other_axes
from nnunet_ssl.data.inspection_report import Pair, Report
from nnunet_ssl.data.label_files import misplaced_labels, named_codes
from nnunet_ssl.data.label_values import other_codes
from nnunet_ssl.data.leakage import find_overlaps, of_same_patients
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import FOLDERS, RawDataset, read_case, read_label_map
from nnunet_ssl.data.similarity import (
    best_correlations,
    candidate_pairs,
    coarse_vector,
    fine_shape,
    fine_voxel,
    pairs_of,
    reduce_image,
)
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import load_splits, patients_on_both_sides, split_hash
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, content_hash, known_groups
from nnunet_ssl.errors import UserError, some

DETAIL_THRESHOLD = 0.6  # fine structure agrees this much only in scans of one patient (seen on LA and ACDC)
OUTLIER_DEVIATIONS = 3.5  # robust standard deviations (Iglewicz and Hoaglin, 1993), of logarithms
OUTLIER_FACTOR = 1.5  # a value within this factor of the median is never an outlier


@dataclass
class _Image:
    section: str
    case: str
    files: list[str]
    label: str | None
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    channels: int = 0
    sha256: str = ""
    label_hash: str = ""
    orientation: str | None = None
    constant: tuple[int, ...] = ()  # channels
    coarse: np.ndarray | None = None

    @property
    def name(self) -> str:
        return f"{FOLDERS[self.section]}/{self.case}"


def check_dataset(
    name_or_id: str | int, num_processes: int, threshold: float = 0.95, strict: bool = False, show_progress: bool = True
) -> Report:
    """Read every image of a raw data set and report. Nothing is written.

    Raises:
        UserError: the data set cannot be listed (see `RawDataset.open`) or images cannot be read; all are named.
    """
    raw = RawDataset.open(name_or_id)
    report = Report(raw.name)
    if unused := raw.unused_test_labels():
        report.warnings.append(unused)
    if unread := raw.unread_files():
        report.warnings.append(unread)
    listed = _load_lists(raw, report)
    splits = _load_splits(raw, report)
    reader = raw.reader_writer_class
    images = _read_images(raw, reader, num_processes, show_progress, report)

    cases = UnlabeledList(groups=listed.groups, hidden_labels=listed.hidden_labels)
    for image in images:
        getattr(cases, image.section)[image.case] = CaseRecord("", image.sha256)
    for section, folder in FOLDERS.items():
        members = getattr(cases, section)
        report.counts[folder] = len(members)
        report.patients[folder] = len({cases.patient(case) for case in members})
        recorded = getattr(listed, section)
        changed = [c for c in members if c in recorded and recorded[c].sha256 not in ("", members[c].sha256)]
        if changed:
            report.warnings.append(
                f"{len(changed)} images of {folder}, such as {changed[0]}, have changed since {LIST_FILE} was written; "
                f"run `nnunet_ssl preprocess_unlabeled -d {raw.id} --rehash`"
            )

    _find_leaks(cases, splits, report)
    lines = _lines(cases, splits)
    _find_equal_images(images, report)
    _find_alike(images, reader, cases, threshold, lines, num_processes, show_progress, report)
    _find_equal_labels(images, lines, report)
    report.outliers = [*find_outliers(images), *_find_turned(images), *_find_constant(images)]
    crossing = [p for p in report.near_duplicates if p.crosses]
    crossing_labels = [p for p in report.equal_labels if p["crosses"]]
    found = report.leaks if strict else report.warnings
    found += [f"{p.case} and {p.other} are near-duplicates on both sides of {p.crosses}" for p in crossing]
    found += [
        f"{p['case']} and {p['other']} have equal label maps on both sides of {p['crosses']}" for p in crossing_labels
    ]
    return report


def _load_lists(raw: RawDataset, report: Report) -> UnlabeledList:
    files = [folder / LIST_FILE for folder in (raw.preprocessed, raw.folder)]
    lists = [UnlabeledList.load(file) for file in files if file.is_file()] or [UnlabeledList()]
    lists[0].groups = known_groups(raw.preprocessed, raw.folder)
    if not any(file.is_file() for file in files) and not lists[0].groups:
        report.warnings.append(
            f"{files[1]} does not exist: patients with several cases are not known. "
            f"`nnunet_ssl preprocess_unlabeled -d {raw.id}` writes it; add `groups` to it"
        )
    for other in lists[1:]:
        lists[0].hidden_labels = lists[0].hidden_labels or other.hidden_labels
    return lists[0]


def _load_splits(raw: RawDataset, report: Report) -> list[dict[str, list[str]]]:
    files = [folder / SPLITS_FILE for folder in (raw.preprocessed, raw.folder)]
    found = [load_splits(file) for file in files if file.is_file()]
    if not found:
        report.warnings.append(
            f"{files[0]} does not exist: nnU-Net would make random folds, by case and not by patient. Write it with "
            f"`nnunet_ssl split -d {raw.id} --labeled 1.0` (all labels are used)"
        )
        return []
    if len(found) == 2 and [split_hash(s) for s in found[0]][: len(found[1])] != [split_hash(s) for s in found[1]]:
        report.warnings.append(f"{files[0]} and {files[1]} differ; training reads the first, planning refuses to run")
    return found[0]


def _describe(
    image: _Image, reader_writer_class: type, number_of_channels: int, example: str, codes: set[int]
) -> tuple[_Image, str]:
    try:
        values, properties = read_case(image.case, image.files, reader_writer_class)
        if image.label is not None:
            label = read_label_map(image.case, image.label, reader_writer_class)[0]
            if unknown := other_codes(label, codes):
                allowed = f"dataset.json names {', '.join(map(str, sorted(codes)))}"
                return image, f"case {image.case}: {image.label} holds {some(unknown)}; {allowed}. Correct one of them."
            image.label_hash = _label_hash(label)
    except UserError as error:
        return image, str(error)
    if problem := other_axes(image.case, image.files, example, reader_writer_class):
        return image, problem
    image.channels = len(values)
    if image.channels != number_of_channels:
        return image, wrong_number_of_channels(image.case, image.files, image.channels, number_of_channels)
    image.shape = tuple(int(size) for size in values.shape[1:])
    image.spacing = tuple(float(size) for size in properties["spacing"])
    image.sha256 = content_hash(values)
    image.orientation = orientation(image.files[0], reader_writer_class)
    image.constant = tuple(i for i, channel in enumerate(values) if channel.min() == channel.max())
    image.coarse = coarse_vector(values)
    return image, ""


def _label_hash(label: np.ndarray) -> str:
    """Hash of a label map `(1, *spatial)` cut to the box of what is not background; empty where there is nothing."""
    where = np.argwhere(label > 0)
    if not len(where):
        return ""
    low, high = where.min(0), where.max(0) + 1
    return content_hash(label[tuple(slice(a, b) for a, b in zip(low, high))])


def _read_images(
    raw: RawDataset, reader: type, num_processes: int, show_progress: bool, report: Report
) -> list[_Image]:
    images = []
    for section in FOLDERS:
        labels = raw.label_files(section)
        images += [_Image(section, case, files, labels.get(case)) for case, files in raw.images(section).items()]
    codes = named_codes(raw.dataset_json, ignore=True)
    jobs = [(image, reader, raw.number_of_channels, raw.example(image.case), codes) for image in images]
    problems = []
    for index, (image, problem) in run_in_processes(_describe, jobs, num_processes, "Reading images", show_progress):
        images[index] = image
        if problem:
            problems.append(problem)
    if problems:
        raise UserError("\n".join(sorted(problems)))
    for section in ("labeled", "test"):
        report.warnings += misplaced_labels(raw, section)
    return images


def _no_validation_set(split: dict) -> bool:
    return set(split["train"]) == set(split["val"])


def _find_leaks(cases: UnlabeledList, splits: Sequence[dict], report: Report) -> None:
    def patients(one, other, what: str) -> None:
        both = patients_on_both_sides(one, other, cases.groups)
        if both:
            report.leaks.append(f"{what}: {len(both)} patient(s) on both sides: {some(both)}")

    # without a split everything that is not a test case is training
    for fold, split in enumerate(splits) if splits else [("-", {"train": list(cases.labeled), "val": []})]:
        train, val = split["train"], split["val"]
        where = f"fold {fold}" if splits else "no split"
        listed = cases.unlabeled_cases(fold)
        held_out = {*val, *cases.test} - set(train)
        # found below by name; the others are the ones that a training leaves out by itself
        left_out = set(of_same_patients(cases, listed, held_out)) - held_out
        unlabeled = [case for case in listed if case not in left_out]
        hidden = len(set(cases.hidden_labels.get(str(fold), [])) - left_out)
        if splits:
            report.folds.append(
                {
                    "fold": fold,
                    "labeled": len(train),
                    "unlabeled": len(unlabeled),
                    "left out": len(left_out),
                    "of these with hidden labels": hidden,
                    "validation": len(val),
                    "split": split_hash(split)[:12],
                }
            )
        if left_out:
            report.notes.append(
                f"{where}: trainings leave out {len(left_out)} unlabeled image(s) of patients with validation or test cases: "
                f"{some(sorted(left_out))}"
            )
        unknown = sorted({*train, *val} - set(cases.labeled))
        if unknown:
            report.warnings.append(f"{where}: {len(unknown)} case(s), such as {unknown[0]}, do not lie in imagesTr")
        if splits and _no_validation_set(split):
            report.notes.append(
                f"{where} validates on its own training cases (a protocol without a validation set): compare on test cases"
            )
            val = []
        for overlap in find_overlaps(cases, listed, train, val):
            text = f"{where}: unlabeled {overlap}"
            if overlap.place == "training" and overlap.by == "content":
                report.warnings.append(text)
            else:
                report.leaks.append(text)
        report.leaks += [f"{where}: labeled {overlap}" for overlap in find_overlaps(cases, train, (), val)]
        patients({*train, *unlabeled}, val, f"{where}, training and validation")
        patients({*train, *unlabeled}, cases.test, f"{where}, training and test")
    validation = {c for split in splits if not _no_validation_set(split) for c in split["val"]}
    for overlap in find_overlaps(cases, validation, (), ()):
        report.warnings.append(f"validation case {overlap}")


def _lines(cases: UnlabeledList, splits: Sequence[dict]) -> list[tuple[str, set[str], set[str]]]:
    """Lines that nothing may be on both sides of: name, training side, evaluation side, as image names."""
    lines = []
    for fold, split in enumerate(splits):
        hidden = cases.hidden_labels.get(str(fold), [])
        train = {f"imagesTr/{c}" for c in (*split["train"], *hidden)} | {f"imagesUn/{c}" for c in cases.unlabeled}
        if not _no_validation_set(split):
            lines.append((f"training and validation of fold {fold}", train, {f"imagesTr/{c}" for c in split["val"]}))
    rest = {f"imagesTr/{c}" for c in cases.labeled} | {f"imagesUn/{c}" for c in cases.unlabeled}
    lines.append(("training and test", rest, {f"imagesTs/{c}" for c in cases.test}))
    return lines


def _crosses(one: str, other: str, lines: Sequence[tuple[str, set[str], set[str]]]) -> str:
    for name, train, evaluation in lines:
        if (one in train and other in evaluation) or (other in train and one in evaluation):
            return name
    return ""


def _find_equal_images(images: Sequence[_Image], report: Report) -> None:
    """Equal voxels under two names inside one folder: no leak, but an image that counts twice."""
    for section in FOLDERS:
        members: dict[str, list[str]] = {}
        for image in images:
            if image.section == section:
                members.setdefault(image.sha256, []).append(image.name)
        report.warnings += [f"{one} and {other} are the same image" for one, other in pairs_of(members)]


def _reduce(image: _Image, reader_writer_class: type, voxel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, _ = reader_writer_class().read_images(image.files)
    values, mask = reduce_image(values, fine_shape(image.shape, image.spacing, voxel))
    return values.astype(np.float16), mask  # half the memory while all look-alikes are held


def _find_alike(
    images: Sequence[_Image],
    reader: type,
    cases: UnlabeledList,
    threshold: float,
    lines: Sequence[tuple[str, set[str], set[str]]],
    num_processes: int,
    show_progress: bool,
    report: Report,
) -> None:
    patients = [cases.patient(image.case) for image in images]
    candidates, report.alike_within_patients = candidate_pairs(np.stack([image.coarse for image in images]), patients)
    # equal images are reported as such
    candidates = [(i, j) for i, j in candidates if images[i].sha256 != images[j].sha256]
    if not candidates:
        return
    spacings = np.array([image.spacing for image in images])
    voxel = fine_voxel(spacings * np.array([image.shape for image in images]), spacings)
    used = sorted({index for pair in candidates for index in pair})
    jobs = [(images[index], reader, voxel) for index in used]
    reduced = {}
    for index, result in run_in_processes(_reduce, jobs, num_processes, "Reading look-alikes", show_progress):
        reduced[used[index]] = result
    jobs = [(reduced[i], reduced[j]) for i, j in candidates]
    for index, (correlation, detail) in run_in_processes(
        best_correlations, jobs, num_processes, "Comparing look-alikes", show_progress
    ):
        if detail < DETAIL_THRESHOLD:
            continue
        one, other = sorted(images[k].name for k in candidates[index])
        pair = Pair(one, other, round(correlation, 3), round(detail, 3), _crosses(one, other, lines))
        (report.near_duplicates if correlation >= threshold else report.possible_repeat_scans).append(pair)
    for pairs in (report.near_duplicates, report.possible_repeat_scans):
        pairs.sort(key=lambda pair: (-pair.correlation, pair.case, pair.other))


def _find_equal_labels(
    images: Sequence[_Image], lines: Sequence[tuple[str, set[str], set[str]]], report: Report
) -> None:
    members: dict[str, list[str]] = {}
    for image in images:
        if image.label_hash:
            members.setdefault(image.label_hash, []).append(image.name)
    report.equal_labels = [
        {"case": one, "other": other, "crosses": _crosses(one, other, lines)} for one, other in pairs_of(members)
    ]


def _find_turned(images: Sequence[_Image]) -> list[str]:
    """Images whose axes point elsewhere than those of any labeled case: nnU-Net does not turn them."""
    known = sorted({str(image.orientation) for image in images if image.section == "labeled"})
    return [
        f"{image.name}: its axes point to {image.orientation}, those of the labeled cases to {some(known, 5)}"
        for image in images
        if str(image.orientation) not in known
    ]


def _find_constant(images: Sequence[_Image]) -> list[str]:
    return [f"{image.name}: channel {channel} is constant" for image in images for channel in image.constant]


def find_outliers(images: Sequence) -> list[str]:
    """Images whose spacing or size is unusual, as text.

    Per axis (z, y, x): |log(value / median)| beyond `OUTLIER_DEVIATIONS` robust standard deviations (1.4826 times the
    median absolute deviation of the logarithm), and beyond `log(OUTLIER_FACTOR)`. Images with another number of
    dimensions than most are named alone.

    Args:
        images: objects with `name`, `shape` (voxels) and `spacing` (mm).
    """
    found = []
    dimensions = [len(image.shape) for image in images]
    usual = max(sorted(set(dimensions)), key=dimensions.count)
    for image in images:
        if len(image.shape) != usual:
            found.append(f"{image.name}: {len(image.shape)} dimensions, most have {usual}")
    images = [image for image in images if len(image.shape) == usual]
    for key, unit in (("spacing", "mm"), ("shape", "voxels")):
        logs = np.log([getattr(image, key) for image in images])
        median = np.median(logs, 0)
        deviation = np.abs(logs - median)
        limit = np.maximum(OUTLIER_DEVIATIONS * 1.4826 * np.median(deviation, 0), math.log(OUTLIER_FACTOR))
        for image, beyond in zip(images, deviation > limit):
            if beyond.any():
                value, usual_value = getattr(image, key), np.exp(median)
                found.append(
                    f"{image.name}: {key} {' x '.join(f'{v:g}' for v in value)} {unit}, the median is "
                    f"{' x '.join(f'{v:.4g}' for v in usual_value)}"
                )
    return found
