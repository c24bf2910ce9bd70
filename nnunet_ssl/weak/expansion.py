"""`nnunet_ssl expand`: a data set whose sparse labels are grown over what the images tie to them."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from nnunet_ssl.data.derived import (
    read_label,
    write_label,
)
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, read_case
from nnunet_ssl.errors import LISTED_FAULTS, UserError
from nnunet_ssl.weak import contact_sheet
from nnunet_ssl.weak.seed_expansion import Geodesic, RandomWalker, expand_seeds

METHODS = {"random_walker": RandomWalker, "geodesic": Geodesic}
IN_SLICES = {"random_walker": True, "geodesic": False}  # as published
# option -> smallest and largest allowed value
LIMITS = {"threshold": (0.0, 1.0), "beta": (0.0, float("inf")), "weight": (0.0, 1.0), "iterations": (1, float("inf"))}
SHEET = "expanded_labels.png"
SHOWN_CASES = 6  # on the contact sheet


@dataclass(frozen=True)
class Job:
    """One case, as a worker process gets it."""

    case: str
    label: str
    images: tuple[str, ...]
    reader: type
    method: RandomWalker | Geodesic
    per_slice: bool
    codes: tuple[int, ...]
    ignore: int
    target: Path  # of the expanded label
    shown: bool


@dataclass
class Made:
    """What a worker says of its case."""

    fault: str = ""
    before: Counter = field(default_factory=Counter)  # code -> voxels
    after: Counter = field(default_factory=Counter)
    tiles: list = field(default_factory=list)


def read_method(args: argparse.Namespace) -> RandomWalker | Geodesic:
    """UserError for an option that the method does not have, and for a value out of range."""
    method = METHODS[args.method]
    known = [f.name for f in fields(method)]
    options = {}
    for name, (low, high) in LIMITS.items():
        value = getattr(args, name)
        if value is None:
            continue
        if name not in known:
            allowed = ", ".join(f"--{option}" for option in known)
            raise UserError(f"--{name} does nothing for --method {args.method}. Its options: {allowed}.")
        if not low <= value <= high:
            allowed = f"{low:g} and more" if high == float("inf") else f"a number from {low:g} to {high:g}"
            raise UserError(f"--{name} is {value}; allowed is {allowed}.")
        options[name] = value
    return method(**options)


def read_codes(raw: RawDataset) -> tuple[dict[int, str], int]:
    """Code -> name of what a label map may hold besides the ignore label, and the ignore label.

    Raises:
        UserError: there is no ignore label, or dataset.json does not describe the labels as nnU-Net does.
    """
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    file, labels = raw.folder / "dataset.json", raw.dataset_json["labels"]
    try:
        manager = LabelManager(labels, raw.dataset_json.get("regions_class_order"))
    except (AssertionError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: key 'labels' is not as nnU-Net needs it: {error}. Correct it.") from error
    if not manager.has_ignore_label:
        raise UserError(
            f"the labels of {file} ({', '.join(labels)}) have no 'ignore', nnU-Net's name for what is not annotated, so there is "
            "nothing to expand. `nnunet_ssl convert` writes it for scribbles, `nnunet_ssl weaken` makes sparse labels from dense "
            "ones."
        )
    ignore = int(manager.ignore_label)
    single = {int(value): name for name, value in labels.items() if not isinstance(value, (list, tuple))}
    codes = [int(code) for code in manager.all_labels if int(code) != ignore]
    return {
        code: f"code {code}" if manager.has_regions and code else single.get(code, "background") for code in codes
    }, ignore


def _dataset_json(raw: RawDataset, target: Path, name: str, method: RandomWalker | Geodesic, per_slice: bool) -> dict:
    content = {key: value for key, value in raw.dataset_json.items() if key != "dataset"}
    content |= {"name": target.name.partition("_")[2], "numTraining": len(raw.labeled)}
    own = content.get("nnunet_ssl")
    content["nnunet_ssl"] = {
        **(own if isinstance(own, dict) else {}),
        "expand": {
            "from": raw.name,
            "method": name,
            "options": asdict(method),
            "per_slice": per_slice,
            "version": importlib.metadata.version("nnunet-ssl"),
        },
    }
    return content


def _make_labels(
    raw: RawDataset,
    method: RandomWalker | Geodesic,
    per_slice: bool,
    names: Mapping[int, str],
    ignore: int,
    staging: Path,
    num_processes: int,
    description: str,
) -> dict[str, Made]:
    """Write labelsTr. UserError names all faulty cases."""
    cases = sorted(raw.labeled)
    shown = {cases[index] for index in np.linspace(0, len(cases) - 1, min(SHOWN_CASES, len(cases))).astype(int)}
    reader, ending = raw.reader_writer_class(), raw.dataset_json["file_ending"]
    codes = tuple(names)
    jobs = [
        (
            Job(
                case,
                raw.labels[case],
                tuple(raw.labeled[case]),
                reader,
                method,
                per_slice,
                codes,
                ignore,
                staging / "labelsTr" / f"{case}{ending}",
                case in shown,
            ),
        )
        for case in cases
    ]
    made = {}
    for index, result in run_in_processes(
        expand_label,
        jobs,
        num_processes,
        f"Expanding labels of {description}",
        sys.stderr.isatty(),
        "nothing was written",
    ):
        made[cases[index]] = result
    faults = sorted(result.fault for result in made.values() if result.fault)
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults[:LISTED_FAULTS])
        more = f"\n  ... and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
        raise UserError(f"{len(faults)} of {len(cases)} cases cannot be used; nothing was written.\n{listed}{more}")
    return {case: made[case] for case in cases}


def expand_label(job: Job) -> Made:
    """Read, expand and write one case (runs in a worker process)."""
    try:
        seeds, properties = read_label(job.case, job.label, job.reader, (*job.codes, job.ignore))
        image, image_properties = read_case(job.case, job.images, job.reader)
        if image.shape[1:] != seeds.shape:
            raise UserError(
                f"case {job.case}: the image has shape {image.shape[1:]}, {job.label} has {seeds.shape}. They must agree."
            )
    except UserError as error:
        return Made(fault=str(error))
    spacing = [float(mm) for mm in image_properties["spacing"]]
    labels = expand_seeds(image, seeds, job.ignore, spacing, job.method, job.per_slice)
    write_label(labels, job.target, job.reader, properties)
    tiles = []
    if job.shown:
        axis = int(np.argmax(spacing))
        tiles = contact_sheet.make_tiles(job.case, image[0], seeds, labels, spacing, axis, job.ignore, {})
    return Made("", _counted(seeds), _counted(labels), tiles)


def _counted(labels: np.ndarray) -> Counter:
    codes, voxels = np.unique(labels, return_counts=True)
    return Counter(dict(zip(codes.tolist(), voxels.tolist())))


def _report(
    target: Path,
    dataset_id: int,
    raw: RawDataset,
    names: Mapping[int, str],
    ignore: int,
    made: Mapping[str, Made],
    linked: bool,
) -> None:
    before, after = Counter(), Counter()
    for result in made.values():
        before += result.before
        after += result.after
    total = sum(before.values())
    print(f"{'class':<16}{'annotated voxels':>18}{'expanded':>14}")
    for code, name in names.items():
        print(f"{name:<16}{before[code]:>18}{after[code]:>14}")
    shares = [100 * (total - counts[ignore]) / total for counts in (before, after)]
    print(
        f"{len(made)} cases, {shares[0]:.2f} % of all voxels annotated before, {shares[1]:.2f} % now; "
        f"{len(raw.unlabeled)} cases in imagesUn, {len(raw.test)} in imagesTs."
    )
    same = [case for case, result in made.items() if result.before == result.after]
    if same:
        print(
            f"Note: nothing was expanded in {len(same)} case(s), such as {', '.join(same[:5])}: their seeds are of one class, or "
            "too few for the threshold."
        )
    print("Images and dense labels are " + ("hard links: no copy was made." if linked else "copies."))
    print(f"Look at {target / SHEET}. Next: nnunet_ssl plan_and_preprocess -d {dataset_id}")
