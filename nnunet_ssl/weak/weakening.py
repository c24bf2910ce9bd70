"""`nnunet_ssl weaken`: a data set with simulated weak labels from one with dense labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError
from nnunet_ssl.weak import boxes as boxes_of_cases
from nnunet_ssl.weak import contact_sheet
from nnunet_ssl.weak.codes import Codes, dense_codes
from nnunet_ssl.weak.contact_sheet import Side
from nnunet_ssl.weak.generate import BACKGROUND, RULES_VERSION, VOLUME_POINTS, Recipe, weaken
from nnunet_ssl.weak.relabeling import Case, Made, NewLabel, Relabeling, Sheet, Writing, total_voxels
from nnunet_ssl.weak.sources import describe_sources, read_sources


def weaken_dataset(
    name_or_id: str | int, recipe: Recipe, writing: Writing, annotated: Sequence[str] | None = None
) -> Path:
    """Write a copy of a data set with weak labels in place of dense ones, and print how much is annotated.

    Args:
        annotated: for partial labels, the classes of each source, separated by commas; None: a source per class.

    Returns:
        The folder of the new data set. If it holds the result of the same request already, nothing is written.

    Raises:
        UserError: labels that are not dense, sources that do not fit, faulty cases, an existing data set, a full disk.
    """
    if annotated is not None and recipe.kind != "partial":
        raise UserError("--annotated is for --kind partial. Leave it out.")
    raw = RawDataset.open(name_or_id)
    codes = dense_codes(raw)
    relabeling = Relabeling(raw, writing, recipe.kind, "dense", raw.labels)
    if recipe.kind == "partial":
        sources = read_sources(annotated, codes)
        described = describe_sources(raw, sources, relabeling.case_list, relabeling.splits, recipe.seed)
        changes = {"partial_labels": described}
    else:
        described = {}
        changes = {"labels": {**raw.dataset_json["labels"], "ignore": codes.ignore}}
    request = {
        "kind": recipe.kind,
        "rule": recipe.rule,
        "options": dict(recipe.options),
        "axis": recipe.axis,
        "seed": recipe.seed,
        "rules_version": RULES_VERSION,
    }
    dataset_json = relabeling.dataset_json("weaken", request, changes)
    if relabeling.is_done(dataset_json, "weak labels", "kind"):
        return relabeling.target
    made = relabeling.write(
        dataset_json,
        _workers(raw, recipe, codes, described),
        "Weak labels of",
        _sheet(recipe, codes),
        partial(_write_boxes, recipe) if recipe.kind == "boxes" else None,
    )
    _report(relabeling, recipe, codes, made, described)
    return relabeling.target


# --- the labels -------------------------------------------------------------------------------------------------------


def _workers(raw: RawDataset, recipe: Recipe, codes: Codes, described: Mapping) -> dict[str, partial]:
    """Case -> what makes its label; with partial labels a case has the classes of its source only."""
    classes = {
        case: {name: codes.classes[name] for name in source["annotated"]}
        for source in described.get("sources", {}).values()
        for case in source["cases"]
    }
    return {
        case: partial(weak_label, recipe=recipe, codes=codes, classes=classes.get(case, codes.classes))
        for case in raw.labeled
    }


def weak_label(case: Case, recipe: Recipe, codes: Codes, classes: Mapping[str, Sequence[int]]) -> NewLabel:
    """The weak label of one case. `classes`: those that it keeps, all but for partial labels."""
    labels, properties = case.read_label(codes.names)
    if recipe.kind == "slices" and labels.shape[recipe.axis] == 1:
        raise UserError(
            f"case {case.name}: {case.label} has {labels.shape[recipe.axis]} slice along axis {recipe.axis}; the kind "
            "slices needs several. Use another kind or --axis."
        )
    weak, boxes = weaken(labels, case.name, properties["spacing"], recipe, codes.ignore, classes)
    if (weak == codes.ignore).all():
        raise UserError(
            f"case {case.name}: nothing of {case.label} would be annotated (shape {labels.shape}); at least one voxel must be. "
            "Use another kind or a smaller --margin, or leave the case out."
        )
    tiles = []
    if case.shown:
        image, _ = case.image(labels.shape)
        drawn, remark = weak, ""
        if recipe.kind == "partial":  # in the file a hidden class is 0 as the background is
            drawn = np.where((labels != BACKGROUND) & (weak == BACKGROUND), codes.ignore, weak)
            remark = f"({', '.join(classes)} annotated)"
        tiles = contact_sheet.make_tiles(
            case.name,
            image[0],
            labels,
            drawn,
            properties["spacing"],
            recipe.axis,
            codes.ignore,
            boxes,
            points=_is_pointwise(recipe),
            remark=remark,
        )
    return NewLabel(labels, weak, properties, tiles, boxes)


def _is_pointwise(recipe: Recipe) -> bool:
    """Whether a case has few annotated spots, most slices none."""
    return recipe.kind == "points" and recipe.rule in VOLUME_POINTS


# --- what is written besides ------------------------------------------------------------------------------------------


def _write_boxes(recipe: Recipe, folder: Path, made: Mapping[str, Made]) -> None:
    content = {
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
    write_json_atomically(content, folder / boxes_of_cases.FILE_NAME)


def _sheet(recipe: Recipe, codes: Codes) -> Sheet:
    title = " ".join(filter(None, (recipe.kind, recipe.rule)))
    options = ", ".join(f"{name} {value}" for name, value in recipe.options.items() if value is not None)
    alpha = 0.95 if recipe.kind in ("scribble", "points") else 0.45
    names, hidden = dict(codes.names), codes.ignore
    if recipe.kind == "partial":  # background is said of voxels that are something else, and not colored
        names[codes.ignore], hidden = contact_sheet.NOT_ANNOTATED, BACKGROUND
        del names[BACKGROUND]
    return Sheet(
        contact_sheet.FILE_NAME,
        title + (f" ({options})" if options else ""),
        names,
        Side("dense", BACKGROUND, 0.45),
        Side("weak", hidden, alpha, _is_pointwise(recipe)),
    )


def _report(
    relabeling: Relabeling, recipe: Recipe, codes: Codes, made: Mapping[str, Made], partial_labels: Mapping
) -> None:
    dense, weak = total_voxels(made)
    raw, total = relabeling.raw, sum(dense.values())
    print(f"{'class':<16}{'dense voxels':>14}{'annotated':>14}{'of the class':>14}")
    for code, name in codes.names.items():
        # with partial labels, background is also said of voxels that are something else
        true = dense[code] > 0 and weak[code] <= dense[code]
        share = f"{100 * weak[code] / dense[code]:.2f} %" if true else "-"
        print(f"{name:<16}{dense[code]:>14}{weak[code]:>14}{share:>14}")
    # with partial labels every voxel has a code, and a 0 may be a class that is not annotated
    share = "" if partial_labels else f", {100 * (total - weak[codes.ignore]) / total:.2f} % of all voxels annotated"
    print(f"{len(made)} cases{share}; {len(raw.unlabeled)} cases in imagesUn, {len(raw.test)} in imagesTs.")
    for name, source in partial_labels.get("sources", {}).items():
        print(f"{name}: {len(source['cases'])} cases")
    for fold, split in enumerate(relabeling.splits or ()):
        for name in codes.classes if partial_labels else ():
            annotated = {c for s in partial_labels["sources"].values() if name in s["annotated"] for c in s["cases"]}
            if not annotated & set(split["train"]):
                print(f"Warning: fold {fold} has no training case with {name} annotated. Try another --seed.")
    channels = raw.dataset_json.get("channel_names", raw.dataset_json.get("modality"))
    if recipe.kind != "partial" and any(str(channel).lower() == "ct" for channel in channels.values()):
        print(
            "Note: for CT, nnU-Net takes the intensities for normalization from all voxels that are not background, the ignored "
            f"ones included. To train with the plans of the dense labels, before plan_and_preprocess:\n"
            f"  nnUNetv2_extract_fingerprint -d {dataset_number(relabeling.target.name)}\n"
            f"  nnUNetv2_move_plans_between_datasets -s {raw.id} -t {dataset_number(relabeling.target.name)} -sp nnUNetPlans"
        )
    relabeling.report_end(contact_sheet.FILE_NAME)
