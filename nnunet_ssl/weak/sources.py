"""Partial labels: which classes each source annotates, and which patients come from which source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.weak.codes import Codes
from nnunet_ssl.weak.generate import sources_of_patients


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


def describe_sources(
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
