"""Does an unlabeled image, or its patient, reappear among the validation or test cases?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nnunet_ssl.data.unlabeled_list import UnlabeledList


@dataclass(frozen=True)
class Overlap:
    """One image that is in two places. `by` is "id" or "content" (equal voxels under another name)."""

    case: str
    other: str
    place: str
    by: str

    def __str__(self) -> str:
        same = "the same case" if self.by == "id" else f"the same image as {self.other}"
        return f"{self.case} is {same} of the {self.place} set"


def find_overlaps(
    cases: UnlabeledList, unlabeled: Iterable[str], train: Iterable[str], validation: Iterable[str]
) -> list[Overlap]:
    """Unlabeled images that are also training, validation or test images, by identifier and by content hash.

    Validation cases that are training cases as well (protocols without a validation set) count as training only. Test cases
    are those of `cases.test`. Cases without a stored hash are compared by identifier only.
    """
    records = {**cases.test, **cases.labeled, **cases.unlabeled}
    train = set(train)
    places = {"training": train, "validation": set(validation) - train, "test": set(cases.test)}
    overlaps = []
    for place, members in places.items():
        pool = cases.test if place == "test" else cases.labeled
        by_hash = {pool[m].sha256: m for m in sorted(members) if m in pool and pool[m].sha256}
        for case in sorted(unlabeled):
            if case in members:
                overlaps.append(Overlap(case, case, place, "id"))
            elif case in records and records[case].sha256 in by_hash:
                overlaps.append(Overlap(case, by_hash[records[case].sha256], place, "content"))
    return overlaps


def of_same_patients(cases: UnlabeledList, unlabeled: Iterable[str], held_out: Iterable[str]) -> list[str]:
    """The unlabeled cases, sorted, whose patient (`groups`) has a case in `held_out`."""
    patients = {cases.patient(case) for case in held_out}
    return sorted(case for case in unlabeled if cases.patient(case) in patients)
