"""The report of a conversion: where its cases went, how much is annotated, which images occur twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ssl.data.raw_dataset import DENSE_FOLDER
from nnunet_ssl.data.splits import split_hash
from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription
from nnunet_ssl.errors import some


@dataclass(frozen=True)
class Converted:
    """What the conversion of one case has shown."""

    content: str = ""  # content hash of the images
    fault: str = ""  # why the case cannot be converted
    empty: bool = False  # a label was written, without any foreground
    voxels: int = 0  # of a sparse label that was written; 0 where there is none
    annotated: int = 0  # of these, not ignored
    differing: int | None = None  # annotated voxels that differ from the dense mask; None without mask


def report_conversion(
    dataset: DatasetDescription,
    assignment: Assignment,
    by_id: Mapping[str, Case],
    target: Path,
    folds: Sequence[Mapping[str, Sequence[str]]],
    results: Mapping[str, Converted],
) -> None:
    """Print where the cases went, what the folds are, and what comes next."""
    from nnunetv2.paths import nnUNet_preprocessed

    sparse = dataset.ignore_label is not None
    for part, folder in (
        ("labeled", "imagesTr, labelsTr"),
        ("validation", "imagesTr, labelsTr"),
        ("unlabeled", "imagesUn"),
        ("test", "imagesTs, labelsTs"),
    ):
        ids = getattr(assignment, part)
        print(f"{part:<10}  {len(ids):>5} cases of {len({by_id[i].patient for i in ids}):>5} patients   {folder}")
    without = [i for i in assignment.test if (by_id[i].dense if sparse else by_id[i].label) is None]
    if without:
        print(f"{len(without)} test case(s) have no label and cannot be evaluated: {some(without, 5)}.")
    if sparse:
        _report_sparse(assignment, results)
    split = folds[0]
    if assignment.folds:
        sizes = ", ".join(f"{number}: {len(fold['train'])} / {len(fold['val'])}" for number, fold in enumerate(folds))
        print(f"{len(folds)} folds, training / validation cases  {sizes}")
    elif assignment.validation:
        print(f"Fold 0 trains on the {len(split['train'])} labeled cases and validates on {len(split['val'])} others.")
    else:
        print(
            f"The protocol has no validation list: fold 0 trains on all {len(split['train'])} labeled cases and validates on the "
            "same cases. Compare methods on the test cases."
        )
    print(f"split hash  {', '.join(split_hash(fold)[:12] for fold in folds)}")
    print(f"Written to {target}. Next: nnunet_ssl plan_and_preprocess -d {dataset.dataset_id}")
    if nnUNet_preprocessed.is_set() and (Path(str(nnUNet_preprocessed)) / dataset.folder_name).is_dir():
        print(
            f"Note: nnUNet_preprocessed/{dataset.folder_name} exists from an earlier conversion. Plan and preprocess again "
            "before training."
        )


def _report_sparse(assignment: Assignment, results: Mapping[str, Converted]) -> None:
    """How much is annotated, and whether the sparse labels agree with the dense masks: a label of another case would not."""
    sparse = {case_id: result for case_id, result in results.items() if result.voxels}
    shares = sorted(100 * result.annotated / result.voxels for result in sparse.values())
    print(
        f"annotated   {np.mean(shares):.2f} % of the voxels of {len(sparse)} sparse labels "
        f"({shares[0]:.2f} to {shares[-1]:.2f} %); the rest is `ignore`"
    )
    dense_only = [case_id for case_id in assignment.validation if not results[case_id].voxels]
    without = [case_id for case_id, result in sparse.items() if result.differing is None]
    masks = len(sparse) - len(without) + len(dense_only)
    if dense_only:
        print(
            f"{len(dense_only)} validation case(s) have no sparse label; labelsTr holds their dense mask: {some(dense_only, 5)}."
        )
    compared = {
        case_id: result.differing / result.annotated
        for case_id, result in sparse.items()
        if result.differing is not None and result.annotated
    }
    if masks:
        print(f"dense       {masks} masks in {DENSE_FOLDER}, for validation only")
    if compared:
        worst = max(compared, key=compared.__getitem__)
        equal = sum(share == 0 for share in compared.values())
        print(
            f"{equal} of {len(compared)} sparse labels agree with the mask on every annotated voxel"
            + (f"; at most {100 * compared[worst]:.2f} % of them differ ({worst})." if compared[worst] else ".")
        )
    if without:
        print(
            f"{len(without)} case(s) of imagesTr have no dense mask; a validation on them counts annotated voxels only: "
            f"{some(sorted(without), 5)}."
        )


def report_identical(hashes: Mapping[str, str], dataset_id: int) -> None:
    """Name cases with the same voxels, as patient074 and patient076 of ACDC."""
    if identical := identical_images(dict(sorted(hashes.items()))):
        print(
            f"Warning: {len(identical)} image(s) occur more than once, voxel for voxel: {some(identical)}. "
            f"`nnunet_ssl check -d {dataset_id}` tells whether one is on two sides of the split."
        )


def identical_images(hashes: Mapping[str, str]) -> list[str]:
    """`a = b` for cases with equal content hashes, in the order in which `hashes` (case -> hash) names them."""
    cases_of: dict[str, list[str]] = {}
    for case_id, content in hashes.items():
        cases_of.setdefault(content, []).append(case_id)
    return [" = ".join(cases) for cases in cases_of.values() if len(cases) > 1]
