"""Sparse labels (scribbles, points, ...): what every converter of them needs beside `writing.write_dataset`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from nnunet_ssl.dataset_conversion.case_lists import check_known, choose_labeled
from nnunet_ssl.dataset_conversion.common import Assignment, Case
from nnunet_ssl.errors import UserError, some


def require_sparse_labels(cases: Iterable[Case], expected: str) -> None:
    """UserError that names the training cases without a sparse label; `expected` is the name that its file should have."""
    missing = [case.case_id for case in cases if case.label is None]
    if missing:
        raise UserError(
            f"{len(missing)} training case(s) have no sparse label ({expected}): {some(missing)}. A dense mask is not used in its "
            "place. Complete the folder of the labels, or give --labeled N: the labels of N patients are used, and all other "
            "training cases become unlabeled images."
        )


def assign_by_patient(
    cases: Sequence[Case],
    train: Sequence[str],
    validation: Sequence[str],
    test: Sequence[str],
    labeled: str | None,
    seed: int | None,
    origin: str,
    expected: str,
    to_patient: Callable[[str], str] = str,
    unlabeled_allowed: bool = False,
) -> Assignment:
    """Assignment by lists of patients.

    Args:
        origin: where the lists come from, for messages.
        expected: name of a label file, for messages.
        to_patient: patient of an entry of the file that --labeled may name.
        unlabeled_allowed: without `labeled`, training patients that have no label at all are unlabeled; else an error.

    Cases of no list are left out, and validation cases with neither sparse label nor dense mask; both are printed.

    Raises:
        UserError: a list names a patient that is not there; a patient whose labels are used lacks one; see `choose_labeled`.
    """
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    for part in (train, validation, test):
        check_known(part, by_patient, origin)
    with_label = [patient for patient in train if any(case.label for case in by_patient[patient])]
    chosen = set(choose_labeled(with_label, labeled, seed, to_patient))
    in_training = [case for patient in train for case in by_patient[patient]]
    required = chosen if labeled is not None or unlabeled_allowed else set(train)
    require_sparse_labels((case for case in in_training if case.patient in required), expected)
    in_validation = [case for patient in validation for case in by_patient[patient]]
    idle = [case.case_id for case in in_validation if case.label is None and case.dense is None]
    if idle:
        print(f"{len(idle)} validation case(s) have no label and are left out: {some(idle, 5)}.")
    left = sorted(set(by_patient) - {*train, *validation, *test})
    if left:
        print(f"{len(left)} patient(s) are in no list and are left out: {some(left, 5)}.")
    return Assignment(
        labeled=tuple(case.case_id for case in in_training if case.patient in chosen),
        unlabeled=tuple(case.case_id for case in in_training if case.patient not in chosen),
        validation=tuple(case.case_id for case in in_validation if case.case_id not in idle),
        test=tuple(case.case_id for patient in test for case in by_patient[patient]),
    )
