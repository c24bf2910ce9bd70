"""What `nnunet_ssl weaken` and `expand` share: a data set with other labels, made case by case in worker processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_ssl import __version__
from nnunet_ssl.data.derived import (
    LABELS_HASH,
    LISTS_HASH,
    carried_lists,
    case_ids,
    hash_labels,
    hash_lists,
    holds_images,
    place_files,
    read_label,
    refuse_faulty_cases,
    refuse_other_images,
    same_request,
    under_construction,
    write_label,
)
from nnunet_ssl.data.names import dataset_title
from nnunet_ssl.data.ownership import refuse_to_replace
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, check_same_grid, read_case
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import write_splits
from nnunet_ssl.data.staging import recover, target_folder
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.weak import contact_sheet
from nnunet_ssl.weak.boxes import Box
from nnunet_ssl.weak.contact_sheet import Side, Tile

SHOWN_CASES = 6  # on the contact sheet


@dataclass(frozen=True)
class Case:
    """One case, as a worker process gets it."""

    name: str
    label: str
    images: tuple[str, ...]
    reader: type
    target: Path  # of the new label
    shown: bool  # on the contact sheet

    def read_label(self, codes: Collection[int]) -> tuple[np.ndarray, dict]:
        """As `derived.read_label`. UserError: it does not lie on the image, too."""
        found = read_label(self.name, self.label, self.reader, codes)
        check_same_grid(self.name, self.images[0], self.label, self.reader)
        return found

    def image(self, shape: Sequence[int]) -> tuple[np.ndarray, dict]:
        """The image `(C, *shape)` and nnU-Net's properties. UserError: it has not the shape of the label map."""
        image, properties = read_case(self.name, self.images, self.reader)
        if image.shape[1:] != tuple(shape):
            raise UserError(
                f"case {self.name}: the image has shape {image.shape[1:]}, {self.label} has {tuple(shape)}. They must agree."
            )
        return image, properties


@dataclass(frozen=True)
class NewLabel:
    """A label map made from another one, both `(z, y, x)`; `properties` are nnU-Net's, of the old one."""

    before: np.ndarray
    after: np.ndarray
    properties: dict
    tiles: list[Tile]
    boxes: Mapping[str, Sequence[Box]] = field(default_factory=dict)


@dataclass
class Made:
    """What a worker says of its case."""

    fault: str = ""
    before: Counter = field(default_factory=Counter)  # code -> voxels
    after: Counter = field(default_factory=Counter)
    boxes: Mapping[str, Sequence[Box]] = field(default_factory=dict)
    tiles: list[Tile] = field(default_factory=list)


Worker = Callable[[Case], NewLabel]  # picklable; UserError for a case that cannot be used


@dataclass(frozen=True)
class Writing:
    """Where a data set is written and how.

    Attributes:
        dataset_id: of the new data set.
        name: after DatasetXXX_; None: the name of the old one and what was done.
        copy: copy images and dense labels in place of hard links.
        overwrite: replace a data set of this id and name.
    """

    dataset_id: int
    name: str | None = None
    num_processes: int = 8
    copy: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Sheet:
    """What the contact sheet says; `names`: code -> for the legend."""

    file: str
    title: str
    names: Mapping[int, str]
    before: Side
    after: Side


class Relabeling:
    """A copy of a raw data set with other labels, in the making.

    Attributes:
        raw: the data set whose labels are replaced.
        target: the folder of the new one.
        name: its name without `DatasetXXX_`.
        dense: case -> its dense label file, for labelsTr_dense.
        case_list, splits: unlabeled.json and splits_final.json, which are carried over; None where there are none.
    """

    def __init__(self, raw: RawDataset, writing: Writing, what: str, labels: str, dense: Mapping[str, str]) -> None:
        """
        Args:
            what: the default of the name ends with it.
            labels: what the labels of `raw` are, "dense".

        Raises:
            UserError: an id or a name that cannot be taken, or the data set itself; images with another ending than it has.
        """
        refuse_other_images(raw)
        self.raw, self.writing, self.dense = raw, writing, dense
        self.name = writing.name or f"{dataset_title(raw.name)}_{what}"
        self.target = target_folder(writing.dataset_id, self.name, option="-o")
        if self.target == raw.folder.absolute():
            raise UserError(f"-o {writing.dataset_id}: this is the data set with the {labels} labels. Give a free id.")
        self.case_list: UnlabeledList | None
        self.case_list, self.splits = carried_lists(raw)
        self.linked = False

    def dataset_json(self, command: str, request: Mapping, changes: Mapping) -> dict:
        """The new dataset.json: `changes`, and what the command was asked for. The order of `labels` is kept."""
        content = {k: value for k, value in self.raw.dataset_json.items() if k != "dataset"}
        content |= {"name": self.name, "numTraining": len(self.raw.labeled), **changes}
        own = content.get("nnunet_ssl")
        content["nnunet_ssl"] = {
            **(own if isinstance(own, dict) else {}),
            command: {"from": self.raw.name, **request, "version": __version__},
            LABELS_HASH: {self.raw.name: hash_labels(self.raw, self.dense)},
            LISTS_HASH: {self.raw.name: hash_lists(self.raw, self.case_list, self.splits)},
        }
        return content

    def is_done(self, dataset_json: Mapping, labels: str, choice: str) -> bool:
        """Whether the target was made by the same request already, which is said.

        Args:
            labels: what was made, "weak labels".
            choice: what else decides, "kind".

        Raises:
            UserError: the target holds something else and may not be overwritten.
        """
        recover(self.target)
        if not self.target.exists():
            return False
        if self.writing.overwrite:
            refuse_to_replace(self.target, self.raw.files(), "a free id with -o")
            return False
        same = same_request(self.target, dataset_json, case_ids(self.raw, self.dense))
        if same and holds_images(self.raw, self.target):
            print(f"{self.target} already holds these {labels}; nothing is written. --overwrite makes them again.")
            return True
        raise UserError(
            f"{self.target} exists and holds something else: cases, their images or labels, patients, splits, {choice} or options "
            "differ. "
            "Allowed: a free id (-o), or --overwrite, which replaces the folder once the new one is complete."
        )

    def write(
        self,
        dataset_json: Mapping,
        workers: Mapping[str, Worker],
        progress: str,
        sheet: Sheet,
        finish: Callable[[Path, Mapping[str, Made]], None] | None = None,
    ) -> dict[str, Made]:
        """Make the data set; what became of each case.

        Args:
            workers: case -> what makes its label.
            progress: beside the bar, before the name of the data set.
            finish: writes what else belongs to the data set into the folder it is given.

        Raises:
            UserError: faulty cases, all of them named, or a disk that cannot be written; nothing is left then.
        """
        with under_construction(self.target) as staging:
            self.linked = place_files(self.raw, self.dense, staging, self.writing.copy)
            made = self._make_labels(workers, staging / "labelsTr", f"{progress} {self.target.name}")
            (staging / "dataset.json").write_text(json.dumps(dataset_json, indent=4) + "\n", encoding="utf-8")
            if self.case_list is not None:
                self.case_list.save(staging / LIST_FILE)
            if self.splits is not None:
                write_splits(staging / SPLITS_FILE, self.splits, overwrite=False)
            if finish is not None:
                finish(staging, made)
            rows = [result.tiles for result in made.values() if result.tiles]
            contact_sheet.write_contact_sheet(
                staging / sheet.file, rows, f"{self.target.name}: {sheet.title}", sheet.names, sheet.before, sheet.after
            )
        return made

    def _make_labels(self, workers: Mapping[str, Worker], folder: Path, progress: str) -> dict[str, Made]:
        raw, names = self.raw, sorted(workers)
        shown = {names[index] for index in np.linspace(0, len(names) - 1, min(SHOWN_CASES, len(names))).astype(int)}
        reader, ending = raw.reader_writer_class, raw.file_ending
        jobs = []
        for name in names:
            images, target = tuple(raw.labeled[name]), folder / f"{name}{ending}"
            jobs.append((workers[name], Case(name, raw.labels[name], images, reader, target, name in shown)))
        made = {}
        for index, result in run_in_processes(
            make_label, jobs, self.writing.num_processes, progress, kept="nothing was written"
        ):
            made[names[index]] = result
        refuse_faulty_cases((result.fault for result in made.values()), len(names), "used")
        return {name: made[name] for name in names}

    def report_end(self, sheet_file: str) -> None:
        """The last lines of the report: whether files are links, where to look, what comes next."""
        if unused := self.raw.unused_test_labels():
            print(f"Left out: {unused}.")
        print("Images and dense labels are " + ("hard links: no copy was made." if self.linked else "copies."))
        print(f"Look at {self.target / sheet_file}. Next: nnunet_ssl plan_and_preprocess -d {self.writing.dataset_id}")


def make_label(worker: Worker, case: Case) -> Made:
    """Make the label of one case, write it and count its voxels (runs in a worker process)."""
    try:
        label = worker(case)
    except UserError as error:
        return Made(fault=str(error))
    write_label(label.after, case.target, case.reader, label.properties)
    return Made("", _counted(label.before), _counted(label.after), label.boxes, label.tiles)


def _counted(labels: np.ndarray) -> Counter:
    codes, voxels = np.unique(labels, return_counts=True)
    return Counter(dict(zip(codes.tolist(), voxels.tolist())))


def total_voxels(made: Mapping[str, Made]) -> tuple[Counter, Counter]:
    """Code -> voxels of all cases, before and after."""
    before, after = Counter(), Counter()
    for result in made.values():
        before += result.before
        after += result.after
    return before, after
