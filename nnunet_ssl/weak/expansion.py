"""`nnunet_ssl expand`: a data set whose sparse labels are grown over what the images tie to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.weak import contact_sheet
from nnunet_ssl.weak.codes import Codes, sparse_codes
from nnunet_ssl.weak.contact_sheet import Side
from nnunet_ssl.weak.relabeling import Case, Made, NewLabel, Relabeling, Sheet, Writing, total_voxels
from nnunet_ssl.weak.seed_expansion import Geodesic, RandomWalker, expand_seeds

METHODS = {"random_walker": RandomWalker, "geodesic": Geodesic}
IN_SLICES = {"random_walker": True, "geodesic": False}  # as published
# option -> smallest and largest allowed value
LIMITS = {"threshold": (0.0, 1.0), "beta": (0.0, float("inf")), "weight": (0.0, 1.0), "iterations": (1, float("inf"))}
SHEET = "expanded_labels.png"


def make_method(name: str, options: Mapping[str, float | None]) -> RandomWalker | Geodesic:
    """The method of `METHODS` with the defaults of what is not given (None).

    Raises:
        UserError: an option that the method does not have, a value out of range.
    """
    method = METHODS[name]
    known = [f.name for f in fields(method)]
    given = {}
    for option, (low, high) in LIMITS.items():
        value = options.get(option)
        if value is None:
            continue
        if option not in known:
            allowed = ", ".join(f"--{other}" for other in known)
            raise UserError(f"--{option} does nothing for --method {name}. Its options: {allowed}.")
        if not low <= value <= high or value == float("inf"):
            allowed = f"{low:g} and more" if high == float("inf") else f"a number from {low:g} to {high:g}"
            raise UserError(f"--{option} is {value}; allowed is {allowed}.")
        given[option] = value
    return method(**given)


def expand_dataset(
    name_or_id: str | int, name: str, method: RandomWalker | Geodesic, writing: Writing, per_slice: bool | None = None
) -> Path:
    """Write a copy of a data set with denser labels, and print how much is annotated before and now.

    Args:
        name: of the method, a key of `METHODS`.
        per_slice: expand in slices across the axis of the largest spacing, else in volumes; None: as published.

    Returns:
        The folder of the new data set. If it holds the result of the same request already, nothing is written.

    Raises:
        UserError: labels without an ignore label, faulty cases, an existing data set, a full disk.
    """
    raw = RawDataset.open(name_or_id)
    codes = sparse_codes(raw)
    relabeling = Relabeling(raw, writing, name, "sparse", raw.dense_files())
    per_slice = IN_SLICES[name] if per_slice is None else per_slice
    request = {"method": name, "options": asdict(method), "per_slice": per_slice}
    dataset_json = relabeling.dataset_json("expand", request, {})
    if relabeling.is_done(dataset_json, "expanded labels", "method"):
        return relabeling.target
    options = ", ".join(f"{option} {value:g}" for option, value in asdict(method).items())
    sheet = Sheet(
        SHEET,
        f"{name} ({options}) in {'slices' if per_slice else 'volumes'}",
        codes.names,
        Side("annotated", codes.ignore, 0.95, rings=True),
        Side("expanded", codes.ignore, 0.45),
    )
    worker = partial(expanded_label, method=method, per_slice=per_slice, codes=codes)
    workers = {case: worker for case in raw.labeled}
    made = relabeling.write(dataset_json, workers, "Expanding labels of", sheet)
    _report(relabeling, codes, made)
    return relabeling.target


def expanded_label(case: Case, method: RandomWalker | Geodesic, per_slice: bool, codes: Codes) -> NewLabel:
    """The expanded label of one case."""
    seeds, properties = case.read_label((*codes.names, codes.ignore))
    image, image_properties = case.image(seeds.shape)
    spacing = [float(mm) for mm in image_properties["spacing"]]
    labels = expand_seeds(image, seeds, codes.ignore, spacing, method, per_slice)
    tiles = []
    if case.shown:
        axis = int(np.argmax(spacing))
        tiles = contact_sheet.make_tiles(case.name, image[0], seeds, labels, spacing, axis, codes.ignore, {})
    return NewLabel(seeds, labels, properties, tiles)


def _report(relabeling: Relabeling, codes: Codes, made: Mapping[str, Made]) -> None:
    before, after = total_voxels(made)
    total = sum(before.values())
    print(f"{'class':<16}{'annotated voxels':>18}{'expanded':>14}")
    for code, name in codes.names.items():
        print(f"{name:<16}{before[code]:>18}{after[code]:>14}")
    shares = [100 * (total - counts[codes.ignore]) / total for counts in (before, after)]
    print(
        f"{len(made)} cases, {shares[0]:.2f} % of all voxels annotated before, {shares[1]:.2f} % now; "
        f"{len(relabeling.raw.unlabeled)} cases in imagesUn, {len(relabeling.raw.test)} in imagesTs."
    )
    same = [case for case, result in made.items() if result.before == result.after]
    if same:
        print(
            f"Note: nothing was expanded in {len(same)} case(s), such as {some(same, 5)}: their seeds are of one class, or "
            "too few for the threshold."
        )
    relabeling.report_end(SHEET)
