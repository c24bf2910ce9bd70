"""`nnunet_ssl weaken`: a data set with simulated weak labels from one with dense labels."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_ssl.data.derived import (
    read_label,
    write_label,
)
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, read_case
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import LISTED_FAULTS, UserError
from nnunet_ssl.weak import boxes as boxes_of_cases
from nnunet_ssl.weak import contact_sheet
from nnunet_ssl.weak.generate import (
    BACKGROUND,
    RULES,
    RULES_VERSION,
    VOLUME_POINTS,
    Recipe,
    sources_of_patients,
    weaken,
)

SHOWN_CASES = 6  # on the contact sheet
# option -> smallest and largest allowed value
LIMITS = {
    "components": (1, None),
    "radius": (0, None),
    "margin": (0, None),
    "background_points": (0, None),
    "every": (2, None),
    "fraction": (0, 1),
}


# --- what is asked for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codes:
    """What the dense labels hold."""

    names: Mapping[int, str]  # code -> for people; regions have no name for a single code
    ignore: int  # the code that weak label maps use for what is not annotated
    classes: Mapping[str, tuple[int, ...]]  # foreground class or region -> its codes
    has_regions: bool


@dataclass(frozen=True)
class Job:
    """One case, as a worker process gets it."""

    case: str
    label: str
    images: tuple[str, ...]
    reader: type
    recipe: Recipe
    codes: Codes
    annotated: tuple[str, ...]  # classes that the weak label keeps; all but for partial labels
    target: Path  # of the weak label
    shown: bool


@dataclass
class Made:
    """What a worker says of its case."""

    fault: str = ""
    dense: Counter = field(default_factory=Counter)  # code -> voxels
    weak: Counter = field(default_factory=Counter)
    boxes: dict = field(default_factory=dict)
    tiles: list = field(default_factory=list)


def read_recipe(args: argparse.Namespace) -> Recipe:
    """UserError for a rule or an option that the kind does not have, and for a value out of range."""
    rules = RULES[args.kind]
    rule = args.rule
    if args.kind == "slices":
        if args.every is not None and args.fraction is not None:
            raise UserError("--every and --fraction both say which slices stay dense. Give one of them.")
        chosen = "every" if args.every is not None else "fraction"
        if rule is not None:
            raise UserError(f"--rule {rule}: the kind slices has no rules; choose with --every or --fraction.")
        rule = chosen
    elif rule is None:
        rule = next(iter(rules))
    if rule not in rules:
        allowed = ", ".join(name for name in rules if name) or "none, leave --rule out"
        raise UserError(f"--rule {rule}: the kind {args.kind} does not have it. Allowed: {allowed}.")
    options = dict(rules[rule])
    for name, (low, high) in LIMITS.items():
        value = getattr(args, name)
        if value is None:
            continue
        if name not in options:
            what = f"--kind {args.kind}" + (f" with the rule {rule}" if rule else "")
            allowed = ", ".join(f"--{option}" for option in options) or "none"
            raise UserError(f"--{name} does nothing for {what}. Its options: {allowed}.")
        if value < low or (high is not None and not low < value < high):
            allowed = f"{low} and more" if high is None else f"a number between {low} and {high}"
            raise UserError(f"--{name} is {value}; allowed is {allowed}.")
        options[name] = value
    if args.annotated is not None and args.kind != "partial":
        raise UserError("--annotated is for --kind partial. Leave it out.")
    return Recipe(args.kind, rule, options, args.axis, args.seed)


def read_codes(raw: RawDataset) -> Codes:
    """UserError if the labels of the data set are not dense, or dataset.json does not describe them as nnU-Net does."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    file = raw.folder / "dataset.json"
    labels = raw.dataset_json["labels"]
    try:
        manager = LabelManager(labels, raw.dataset_json.get("regions_class_order"))
    except (AssertionError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: key 'labels' is not as nnU-Net needs it: {error}. Correct it.") from error
    if manager.has_ignore_label:
        raise UserError(
            f"{file} has the label 'ignore' ({manager.ignore_label}): these labels are not dense, and what is not annotated "
            "has no true class to draw from. Weaken a data set with dense labels."
        )
    classes = {}
    for name, value in labels.items():
        codes = tuple(int(code) for code in (value if isinstance(value, list) else [value]))
        if codes != (BACKGROUND,):
            classes[name] = codes
    single = {codes[0]: name for name, codes in classes.items() if len(codes) == 1}
    everything = [int(code) for code in manager.all_labels]
    names = {code: "background" if code == BACKGROUND else single.get(code, f"code {code}") for code in everything}
    if manager.has_regions:
        names = {code: "background" if code == BACKGROUND else f"code {code}" for code in everything}
    return Codes(names, max(everything) + 1, classes, manager.has_regions)


def read_sources(annotated: Sequence[str] | None, codes: Codes) -> list[tuple[str, ...]]:
    """The classes of each source of partial labels. UserError for regions, unknown or forgotten classes."""
    if codes.has_regions:
        raise UserError(
            "--kind partial: this data set has regions, which share codes; a code outside the annotated region would have to be "
            "background and part of another region at once. Allowed: data sets whose classes exclude each other."
        )
    if len(codes.classes) < 2:
        raise UserError(
            f"--kind partial: this data set has one foreground class ({', '.join(codes.classes)}); with partial labels a case "
            "has some of several. Use another kind, or `nnunet_ssl split` to hide whole labels."
        )
    if annotated is None:
        return [(name,) for name in codes.classes]
    sources = [tuple(dict.fromkeys(name.strip() for name in text.split(","))) for text in annotated]
    for names in sources:
        for name in names:
            if name not in codes.classes:
                raise UserError(f"--annotated {name!r}: no such class. Allowed: {', '.join(codes.classes)}.")
    forgotten = [name for name in codes.classes if not any(name in names for names in sources)]
    if forgotten:
        raise UserError(f"--annotated: no source annotates {', '.join(forgotten)}. Name every class at least once.")
    if len(set(map(frozenset, sources))) < len(sources):
        raise UserError("--annotated: two sources have the same classes. Name each combination once.")
    return sources


# --- the command ------------------------------------------------------------------------------------------------------


def _partial_labels(
    raw: RawDataset,
    sources: Sequence[tuple[str, ...]],
    case_list: UnlabeledList | None,
    splits: Sequence[Mapping[str, Sequence[str]]] | None,
    seed: int,
) -> dict:
    """The key `partial_labels` of dataset.json. Patients of one validation part are spread over the sources."""
    patient_of = {case: case_list.patient(case) if case_list else case for case in raw.labeled}
    patients = sorted(set(patient_of.values()))
    if len(patients) < len(sources):
        raise UserError(
            f"--kind partial: {len(sources)} sources for {len(patients)} patients; every source needs one. Name fewer "
            "sources with --annotated."
        )
    strata = {
        patient: [any(patient_of.get(case) == patient for case in split["val"]) for split in splits or ()]
        for patient in patients
    }
    source_of = sources_of_patients(patients, len(sources), seed, strata)
    return {
        "default": "all",
        "sources": {
            "+".join(names): {
                "annotated": list(names),
                "cases": sorted(case for case in raw.labeled if source_of[patient_of[case]] == index),
            }
            for index, names in enumerate(sources)
        },
    }


def _dataset_json(raw: RawDataset, name: str, codes: Codes, recipe: Recipe, partial: dict) -> dict:
    """The new dataset.json. The order of `labels` is kept: with regions it belongs to `regions_class_order`."""
    content = {key: value for key, value in raw.dataset_json.items() if key not in ("dataset", "partial_labels")}
    content |= {"name": name, "numTraining": len(raw.labeled)}
    if recipe.kind == "partial":
        content["partial_labels"] = partial
    else:
        content["labels"] = {**raw.dataset_json["labels"], "ignore": codes.ignore}
    own = content.get("nnunet_ssl")
    content["nnunet_ssl"] = {
        **(own if isinstance(own, dict) else {}),
        "weaken": {
            "from": raw.name,
            "kind": recipe.kind,
            "rule": recipe.rule,
            "options": dict(recipe.options),
            "axis": recipe.axis,
            "seed": recipe.seed,
            "rules_version": RULES_VERSION,
            "version": importlib.metadata.version("nnunet-ssl"),
        },
    }
    return content


# --- the labels -------------------------------------------------------------------------------------------------------


def _make_labels(
    raw: RawDataset,
    recipe: Recipe,
    codes: Codes,
    partial: Mapping,
    staging: Path,
    num_processes: int,
    description: str,
) -> dict[str, Made]:
    """Write labelsTr. UserError names all faulty cases."""
    annotated = {
        case: tuple(source["annotated"]) for source in partial.get("sources", {}).values() for case in source["cases"]
    }
    cases = sorted(raw.labeled)
    shown = {cases[index] for index in np.linspace(0, len(cases) - 1, min(SHOWN_CASES, len(cases))).astype(int)}
    reader = raw.reader_writer_class()
    ending = raw.dataset_json["file_ending"]
    jobs = [
        (
            Job(
                case,
                raw.labels[case],
                tuple(raw.labeled[case]),
                reader,
                recipe,
                codes,
                annotated.get(case, tuple(codes.classes)),
                staging / "labelsTr" / f"{case}{ending}",
                case in shown,
            ),
        )
        for case in cases
    ]
    made = {}
    for index, result in run_in_processes(
        make_label, jobs, num_processes, f"Weak labels of {description}", sys.stderr.isatty(), "nothing was written"
    ):
        made[cases[index]] = result
    faults = sorted(result.fault for result in made.values() if result.fault)
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults[:LISTED_FAULTS])
        more = f"\n  ... and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
        raise UserError(f"{len(faults)} of {len(cases)} cases cannot be used; nothing was written.\n{listed}{more}")
    return {case: made[case] for case in cases}


def make_label(job: Job) -> Made:
    """Read, weaken and write one case (runs in a worker process)."""
    try:
        labels, properties = read_label(job.case, job.label, job.reader, job.codes.names)
        if job.recipe.kind == "slices" and labels.shape[job.recipe.axis] == 1:
            raise UserError(
                f"case {job.case}: {job.label} has {labels.shape[job.recipe.axis]} slice along axis {job.recipe.axis}; the kind "
                "slices needs several. Use another kind or --axis."
            )
        classes = {name: job.codes.classes[name] for name in job.annotated}
        weak, boxes = weaken(labels, job.case, properties["spacing"], job.recipe, job.codes.ignore, classes)
        if (weak == job.codes.ignore).all():
            raise UserError(
                f"case {job.case}: nothing of {job.label} would be annotated (shape {labels.shape}); at least one voxel must be. "
                "Use another kind or a smaller --margin, or leave the case out."
            )
        tiles = []
        if job.shown:
            image, _ = read_case(job.case, job.images, job.reader)
            if image.shape[1:] != labels.shape:
                raise UserError(
                    f"case {job.case}: the image has shape {image.shape[1:]}, {job.label} has {labels.shape}. They must agree."
                )
            tiles = contact_sheet.make_tiles(
                job.case,
                image[0],
                labels,
                weak,
                properties["spacing"],
                job.recipe.axis,
                job.codes.ignore,
                boxes,
                points=_is_pointwise(job.recipe),
            )
    except UserError as error:
        return Made(fault=str(error))
    write_label(weak, job.target, job.reader, properties)
    return Made("", _counted(labels), _counted(weak), boxes, tiles)


def _counted(labels: np.ndarray) -> Counter:
    codes, voxels = np.unique(labels, return_counts=True)
    return Counter(dict(zip(codes.tolist(), voxels.tolist())))


# --- what is written besides ------------------------------------------------------------------------------------------


def _boxes_json(recipe: Recipe, made: Mapping[str, Made]) -> dict:
    return {
        "format": boxes_of_cases.FORMAT,
        "rule": recipe.rule,
        "margin_mm": recipe.options["margin"],
        "axis": recipe.axis,
        "indices": "voxels of the array that nnU-Net's reader gives (z, y, x); start is inside, stop is the first beyond",
        "cases": {
            case: [
                {"class": name, "start": list(start), "stop": list(stop)}
                for name, found in result.boxes.items()
                for start, stop in found
            ]
            for case, result in made.items()
        },
    }


def _write_sheet(staging: Path, title: str, recipe: Recipe, codes: Codes, made: Mapping[str, Made]) -> None:
    rows = [result.tiles for result in made.values() if result.tiles]
    what = " ".join(filter(None, (recipe.kind, recipe.rule)))
    options = ", ".join(f"{name} {value}" for name, value in recipe.options.items() if value is not None)
    contact_sheet.write_contact_sheet(
        staging / contact_sheet.FILE_NAME,
        rows,
        f"{title}: {what}" + (f" ({options})" if options else ""),
        codes.names,
        contact_sheet.Side("dense", BACKGROUND, 0.45),
        contact_sheet.Side(
            "weak", codes.ignore, 0.95 if recipe.kind in ("scribble", "points") else 0.45, _is_pointwise(recipe)
        ),
    )


def _is_pointwise(recipe: Recipe) -> bool:
    """Whether a case has few annotated spots, most slices none."""
    return recipe.kind == "points" and recipe.rule in VOLUME_POINTS


def _report(
    target: Path,
    dataset_id: int,
    raw: RawDataset,
    recipe: Recipe,
    codes: Codes,
    made: Mapping[str, Made],
    partial: Mapping,
    splits: Sequence[Mapping[str, Sequence[str]]] | None,
    linked: bool,
) -> None:
    dense, weak = Counter(), Counter()
    for result in made.values():
        dense += result.dense
        weak += result.weak
    total = sum(dense.values())
    print(f"{'class':<16}{'dense voxels':>14}{'annotated':>14}{'of the class':>14}")
    for code, name in codes.names.items():
        # with partial labels, background is also said of voxels that are something else
        true = dense[code] > 0 and weak[code] <= dense[code]
        share = f"{100 * weak[code] / dense[code]:.2f} %" if true else "-"
        print(f"{name:<16}{dense[code]:>14}{weak[code]:>14}{share:>14}")
    print(
        f"{len(made)} cases, {100 * (total - weak[codes.ignore]) / total:.2f} % of all voxels annotated; "
        f"{len(raw.unlabeled)} cases in imagesUn, {len(raw.test)} in imagesTs."
    )
    for name, source in partial.get("sources", {}).items():
        print(f"{name}: {len(source['cases'])} cases")
    for fold, split in enumerate(splits or ()):
        for name in codes.classes if partial else ():
            annotated = {c for s in partial["sources"].values() if name in s["annotated"] for c in s["cases"]}
            if not annotated & set(split["train"]):
                print(f"Warning: fold {fold} has no training case with {name} annotated. Try another --seed.")
    channels = raw.dataset_json.get("channel_names", raw.dataset_json.get("modality"))
    if recipe.kind != "partial" and any(str(channel).lower() == "ct" for channel in channels.values()):
        print(
            "Note: for CT, nnU-Net takes the intensities for normalization from all voxels that are not background, the ignored "
            f"ones included. To train with the plans of the dense labels: nnUNetv2_move_plans_between_datasets -s {raw.name} "
            f"-t {target.name}"
        )
    print("Images and dense labels are " + ("hard links: no copy was made." if linked else "copies."))
    print(f"Look at {target / contact_sheet.FILE_NAME}. Next: nnunet_ssl plan_and_preprocess -d {dataset_id}")
