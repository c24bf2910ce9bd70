"""Rounds of offline self-training on disk: what `nnunet_ssl pseudo_label` writes and what training reads.

A round is the folder `pseudo_labels/<round>` of a data set in nnUNet_preprocessed:

    round.json            how it was made, and what was decided of each case; complete when `finished` is a time
    cases.csv, cases.png  the same for people: a table, and the least stable cases
    labels/               label maps of all cases, in the data set's format
    probabilities/        of all cases, with --save_probabilities
    scores/               one json per finished case, from which the table is made
    <data_identifier>_pseudo/, <data_identifier>_pseudo.json
                          preprocessed segmentations of the cases that are kept, without images: those lie elsewhere already

Voxels without a decision have the ignore label, or where the data set has none the number after its last label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.data.atomic import is_unfinished, write_json_atomically
from nnunet_ssl.data.geometry import label_endings
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.label_values import label_values
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.ownership import Known
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.preprocessing.cases import CASE_ENDINGS, preprocess_cases
from nnunet_ssl.preprocessing.preprocessed import (
    complete_cases,
    configuration_name,
    is_made_from,
    load_manifest,
    made_from,
    manifest_file,
    preprocessing_hash,
    unlabeled_folder,
)

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

FOLDER = "pseudo_labels"
FILE = "round.json"
KIND = "pseudo"
FORMAT = 1


def files_of_round(folder: Path, cases: Iterable[str], file_ending: str) -> Known:
    """What the head of this module lists is ours, of `cases` and of those that have scores."""
    names = {*cases, *(file.stem for file in (folder / "scores").glob("*.json"))}
    endings = {"labels": label_endings(file_ending), "probabilities": (".npz",), "scores": (".json",)}

    def known(path: str, file: Path) -> bool:
        first, *below = path.split("/")
        if file.is_symlink() or len(below) > 1:
            return False
        if is_unfinished(file.name):
            return True
        if not below:
            return first in (FILE, "cases.csv", "cases.png") or first.endswith(f"_{KIND}.json")
        of_folder = CASE_ENDINGS if first.endswith(f"_{KIND}") else endings.get(first, ())
        return any(file.name.endswith(end) and file.name.removesuffix(end) in names for end in of_folder)

    return known


@dataclass(frozen=True)
class RoundCase:
    """What was decided of a case. `label`, `image`: hashes of the label file and of the image (with its geometry) it belongs to."""

    keep: bool
    reason: str
    label: str
    image: str


@dataclass
class Round:
    """A round, see above.

    Attributes:
        settings: how it was made; a run with other settings is another round.
        ignore: code of voxels without a decision.
        classes: what the numbers of its label maps mean, see `classes_of`; None in a round of before this was kept.
        trained_on: cases whose labels the networks have seen that made it.
        finished: time in UTC as text that sorts, None while it is being made.
    """

    folder: Path
    settings: dict
    ignore: int
    trained_on: list[str] = field(default_factory=list)
    cases: dict[str, RoundCase] = field(default_factory=dict)
    finished: str | None = None
    classes: dict | None = None

    @classmethod
    def load(cls, folder: Path) -> Round:
        """UserError where round.json is missing or not one."""
        file = folder / FILE
        missing = f"`nnunet_ssl pseudo_label` writes it; remove {folder} if it is of no use."
        again = f"Remove {folder} and make the round again with `nnunet_ssl pseudo_label`."
        content = read_json(file, remedy=again, missing=missing)
        try:
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}; allowed is {FORMAT}")
            cases = {case: RoundCase(**record) for case, record in content["cases"].items()}
            return cls(
                folder,
                content["settings"],
                content["ignore"],
                content["trained_on"],
                cases,
                content["finished"],
                content.get("classes"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} is not the description of a round ({type(error).__name__}: {error}). {again}"
            ) from error

    def save(self) -> None:
        content = {
            "format": FORMAT,
            "settings": self.settings,
            "ignore": self.ignore,
            "classes": self.classes,
            "trained_on": sorted(self.trained_on),
            "cases": {case: asdict(record) for case, record in self.cases.items()},
            "finished": self.finished,
        }
        write_json_atomically(content, self.folder / FILE)

    def check_classes(self, dataset_json: dict) -> None:
        """UserError where the data set has other classes than when the round was made: its numbers would mean something else."""
        now, ignore = classes_of(dataset_json), uncertain_code(dataset_json)
        if self.ignore != ignore or self.classes not in (None, now):
            found = f"{self.classes or 'other classes'} and {self.ignore} for no decision"
            raise UserError(
                f"{self.folder / FILE}: the round was made for {found}; with dataset.json it is {now} and {ignore}. Make a round "
                "of these classes: `nnunet_ssl pseudo_label` with -o NAME, or with --overwrite to replace this one."
            )

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kept(self) -> list[str]:
        return sorted(case for case, record in self.cases.items() if record.keep)

    @property
    def digest(self) -> str:
        """SHA-256 of the kept label maps: the same while training would see the same."""
        content = [(case, self.cases[case].label) for case in self.kept]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def label_file(self, case: str, ending: str) -> Path:
        return self.folder / "labels" / f"{case}{ending}"


def uncertain_code(dataset_json: dict) -> int:
    """The ignore label, or the number after the last label of a data set without one."""
    labels = label_values(dataset_json)
    codes = [code for value in labels.values() for code in (value if isinstance(value, list) else [value])]
    return max(codes) + ("ignore" not in labels)


def classes_of(dataset_json: dict) -> dict[str, int | list[int]]:
    """Class or region -> its number or numbers, without the ignore label."""
    return {name: value for name, value in label_values(dataset_json).items() if name != "ignore"}


def all_rounds(preprocessed_base: str | Path) -> list[Round]:
    """Rounds of a data set, the finished ones first and by time; UserError names a folder that is none."""
    folder = Path(preprocessed_base, FOLDER)
    found = [Round.load(f) for f in sorted(folder.iterdir()) if f.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda r: (r.finished is None, r.finished or "", r.name))


def find_round(preprocessed_base: str | Path, name: str | None, configuration: str) -> Round:
    """The finished round of this name, or the newest one. UserError, with the rounds there are, where there is none."""
    base = Path(preprocessed_base)
    rounds = all_rounds(base)
    finished = {r.name: r for r in rounds if r.finished is not None}
    if name is None and finished:
        return list(finished.values())[-1]
    if name in finished:
        return finished[name]
    unfinished = [r.name for r in rounds if r.finished is None]
    wanted = "no finished round of pseudo labels" if name is None else f"no finished round '{name}' of pseudo labels"
    raise UserError(
        f"{base / FOLDER} holds {wanted}; finished: {some(finished) or 'none'}, unfinished: {some(unfinished) or 'none'}. "
        f"Make (or finish) one with `nnunet_ssl pseudo_label -d {dataset_number(base.name)} -c {configuration} -f ...`."
    )


def verified_labels(
    found: Round,
    preprocessed_base: str | Path,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    unlabeled: Sequence[str],
    labeled: Sequence[str],
) -> tuple[Path, list[str]]:
    """The folder with preprocessed pseudo labels of a round, and its kept cases among `unlabeled`.

    Args:
        unlabeled, labeled: of the fold; validation cases are labeled. Unlabeled images that the run leaves out, of validation
            patients or added since it began, are in neither.

    Raises:
        UserError: a kept case is labeled in this fold or a test case, its image has changed, the labels are not preprocessed with
            these plans, or no case is left.
    """
    base, d = Path(preprocessed_base), dataset_number(Path(preprocessed_base).name)
    records = UnlabeledList.load(base / LIST_FILE)
    known = {**records.labeled, **records.unlabeled}
    again = (
        f"Make another round of this fold: `nnunet_ssl pseudo_label -d {d} -c "
        f"{configuration_name(plans_manager, configuration_manager)} -f ...`."
    )
    of_this_fold = set(unlabeled)
    if elsewhere := [case for case in found.kept if case in {*labeled, *records.test} - of_this_fold]:
        raise UserError(
            f"{found.folder} holds pseudo labels of {some(elsewhere, 5)}, labeled or test case(s) of this fold. {again}"
        )
    cases = [case for case in found.kept if case in of_this_fold]
    if changed := [case for case in cases if not is_made_from(found.cases[case].image, known[case].sha256)]:
        raise UserError(f"{found.folder}: the images of {some(changed, 5)} have changed since it was made. {again}")
    if not cases:
        raise UserError(
            f"{found.folder} keeps no case that is unlabeled in this fold; cases.csv has the reasons. {again} Or remove this "
            "folder, so that the round before it counts again, or name another one with the trainer's attribute round_name."
        )
    folder = Path(unlabeled_folder(found.folder, configuration_manager, KIND))
    manifest = load_manifest(Path(manifest_file(found.folder, configuration_manager, KIND)))
    current = manifest and manifest["preprocessing_hash"] == preprocessing_hash(plans_manager, configuration_manager)
    complete = complete_cases(folder, images=False) if manifest and current else set()
    done = {c for c in complete if is_made_from(manifest["cases"].get(c, ""), _hash(found, c))}
    if not set(cases) <= done:
        raise UserError(
            f"{folder} is missing, unfinished, or made with other plans or labels. Run `nnunet_ssl preprocess_unlabeled -d {d} "
            f"-c {configuration_name(plans_manager, configuration_manager)} -p {plans_manager.plans_name}`."
        )
    return folder, cases


def _hash(made: Round, case: str) -> str:
    record = made.cases.get(case)
    return "" if record is None else made_from(record.image, record.label)


def preprocess_round(
    raw: RawDataset,
    made: Round,
    plans_name: str,
    configuration: str,
    num_processes: int,
    verbose: bool = False,
    show_progress: bool = True,
) -> None:
    """Preprocess the kept label maps of a finished round; the images are there already. Errors as in `preprocess_cases`."""
    images = {**raw.labeled, **raw.unlabeled}
    cases = {case: images[case] for case in made.kept if case in images}
    preprocess_cases(
        raw,
        plans_name,
        configuration,
        num_processes,
        cases=cases,
        hashes={case: _hash(made, case) for case in cases},
        labels={case: str(made.label_file(case, raw.file_ending)) for case in cases},
        kind=KIND,
        into=made.folder,
        keep_images=False,
        verbose=verbose,
        show_progress=show_progress,
    )


def preprocess_rounds(
    raw: RawDataset,
    plans_name: str,
    configurations: Sequence[str],
    num_processes: Sequence[int],
    verbose: bool = False,
    show_progress: bool = True,
) -> None:
    """All finished rounds for all `configurations`; see `preprocess_round`."""
    for made in all_rounds(raw.preprocessed):
        for configuration, processes in zip(configurations, num_processes, strict=True):
            if made.finished is not None:
                preprocess_round(raw, made, plans_name, configuration, processes, verbose, show_progress)
