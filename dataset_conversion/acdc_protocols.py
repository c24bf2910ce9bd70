"""Which patients of ACDC train, validate and test, protocol by protocol. A patient's frames stay together.

* `ssl4mis`: 70 / 10 / 20 patients, the lists of HiLab-git/SSL4MIS.
* `wsl4mis`: five folds over the 100 patients; fold k (from 1) tests the patients 20(k-1)+1 to 20k and trains on the other 80
  (HiLab-git/WSL4MIS). It validates on the test fold too, so that only the final checkpoint may be reported.
* `maag`: 35 patients with scribbles, 35 with unpaired masks, 15 for validation, 15 for testing: `split0` of `perc50` in
  data_interface/utils_acdc/split_data.py of gvalvano/multiscale-adversarial-attention-gates.
* `cyclemix`: patients 1 to 70 train, 71 to 85 validate, 86 to 100 test, the folders of ACDC_dataset in BWGZK/ModelMix, to which
  the author of CycleMix refers (BWGZK/CycleMix, issue 6). The paper trains on 35 of the 70, drawn at random; which ones was
  not published, so they are drawn here with a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_ssl.data.splits import sample_patients
from nnunet_ssl.dataset_conversion.case_lists import shipped_list
from nnunet_ssl.dataset_conversion.common import Case
from nnunet_ssl.errors import UserError, some


@dataclass(frozen=True)
class Protocol:
    """Patients by their part, in the order of the published lists."""

    title: str  # for the log, after "Using"
    train: Sequence[str]
    validation: Sequence[str] = ()
    test: Sequence[str] = ()
    labeled: Sequence[str] | None = None  # whose labels are used where --labeled does not say; None: all of `train`
    drawn: bool = False  # `labeled` is drawn with --seed
    name: str = ""  # of --split_patients
    groups: tuple[Sequence[str], ...] = ()  # cross-validation over `train`: each fold validates one of these groups


def _numbered(first: int, last: int) -> list[str]:
    return [f"patient{number:03d}" for number in range(first, last + 1)]


def ssl4mis(seed: int | None) -> Protocol:
    lists = map(shipped_list, ("acdc_train70.list", "acdc_val10.list", "acdc_test20.list"))
    return Protocol("the standard lists of SSL4MIS", *lists)


def wsl4mis(seed: int | None) -> Protocol:
    groups = tuple(_numbered(20 * fold + 1, 20 * fold + 20) for fold in range(5))
    return Protocol("the five folds of WSL4MIS", _numbered(1, 100), groups=groups)


def maag(seed: int | None) -> Protocol:
    scribbles, masks, validation, test = (
        shipped_list(f"acdc_maag_{part}.list") for part in ("scribbles35", "masks35", "val15", "test15")
    )
    return Protocol("the split of MAAG", [*scribbles, *masks], validation, test, labeled=scribbles, name="maag")


def cyclemix(seed: int | None) -> Protocol:
    train, seed = _numbered(1, 70), seed or 0
    return Protocol(
        f"the split of CycleMix, whose 35 labeled patients are drawn with --seed {seed} (theirs are not published)",
        train,
        _numbered(71, 85),
        _numbered(86, 100),
        labeled=sample_patients(train, {}, 35, seed),
        drawn=True,
        name="cyclemix",
    )


PROTOCOLS: dict[str, Callable[[int | None], Protocol]] = {
    "ssl4mis": ssl4mis,
    "wsl4mis": wsl4mis,
    "maag": maag,
    "cyclemix": cyclemix,
}


def cross_validation(cases: Iterable[Case], groups: Sequence[Sequence[str]]) -> tuple[dict[str, list[str]], ...]:
    """Folds of which each validates the cases of one group of patients and trains on all others.

    Last groups of which no patient is present make no fold, so that the number of a fold always means the same patients.

    Raises:
        UserError: a group before the last one with patients has none, or there is only one group with patients.
    """
    cases = list(cases)
    folds = [
        {
            "train": sorted(case.case_id for case in cases if case.patient not in group),
            "val": sorted(case.case_id for case in cases if case.patient in group),
        }
        for group in groups
    ]
    while folds and not folds[-1]["val"]:
        folds.pop()
    absent = [number for number, fold in enumerate(folds) if not fold["val"] or not fold["train"]]
    if absent:
        ranges = (f"fold {number} ({groups[number][0]} to {groups[number][-1]})" for number in absent)
        raise UserError(
            f"no patient with labels for one side of {some(ranges)}; found are "
            f"{some(sorted({case.patient for case in cases}), 5)}. Every fold needs patients that it tests and others that it "
            "trains on: complete the download, or give your own lists with --split."
        )
    if len(folds) < len(groups):
        print(f"{len(folds)} of {len(groups)} folds are written: no patient of the others is present.")
    return tuple(folds)


def describe(protocol: Protocol, by_patient: Mapping[str, object]) -> str:
    """How many of the protocol's patients are present."""
    parts = {"training": protocol.train, "validation": protocol.validation, "test": protocol.test}
    counts = [
        f"{sum(patient in by_patient for patient in part)} of {len(part)} {name}"
        for name, part in parts.items()
        if part
    ]
    listed = ", ".join(counts[:-1]) + " and " + counts[-1] if len(counts) > 1 else counts[0]
    return f"Using {protocol.title}: {listed} patients are present."
