"""Where predictions lose Dice: near the object, or in false objects far from it.

    python benchmarks/near_the_object.py REFERENCE PREDICTION [PREDICTION ...]

REFERENCE is a folder of label maps (labelsTr, labelsTr_dense), each PREDICTION a folder of predictions with the same file names
(`fold_0/validation` of a model). Prints, in % and as means over cases and classes: Dice; Dice after removal of what is predicted
more than --margin pixels outside the box, in the plane, around all foreground of the reference; precision and recall in voxels.
The second uses the reference, so it explains a result and is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.metrics import read_pair
from nnunet_ssl.evaluation.tables import markdown_table


def near_the_object(reference: np.ndarray, margin: int) -> np.ndarray:
    """Mask `(z, y, x)`, True up to `margin` pixels around the box, in y and x, of what is not 0."""
    mask = np.zeros(reference.shape, dtype=bool)
    box = []
    for index in np.nonzero(reference.any(axis=0)):
        box.append(slice(max(0, index.min() - margin), index.max() + 1 + margin))
    mask[:, box[0], box[1]] = True
    return mask


def measure(prediction: np.ndarray, reference: np.ndarray, margin: int) -> np.ndarray:
    """Dice, Dice near the object, precision and recall `(classes, 4)` of label maps; classes are those of the reference."""
    near = near_the_object(reference, margin)
    rows = []
    for label in np.unique(reference[reference > 0]):
        p, r = prediction == label, reference == label
        hits, found, size = (p & r).sum(), p.sum(), r.sum()
        found_near = (p & near).sum()
        rows.append([2 * hits / (found + size), 2 * hits / (found_near + size), hits / max(found, 1), hits / size])
    return np.array(rows)


def measure_folder(reference: Path, prediction: Path, margin: int) -> list[np.ndarray]:
    """`measure` of every case in a folder of predictions. UserError names what is missing, damaged, on another grid or empty."""
    files = sorted(prediction.glob("*.nii.gz"))
    if not files:
        raise UserError(
            f"{prediction} holds no *.nii.gz. Name a folder of predictions, such as fold_0/validation of a model."
        )
    cases = []
    for file in files:
        predicted, true, _ = read_pair(file, reference / file.name, SimpleITKIO(), "Predict this case again.")
        if not true.any():
            raise UserError(f"{reference / file.name} has no foreground, so nothing is near it.")
        cases.append(measure(predicted, true, margin))
    return cases


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("predictions", type=Path, nargs="+")
    parser.add_argument("--margin", type=int, default=10, metavar="N", help="pixels. Default: 10")
    args = parser.parse_args(arguments)
    rows = []
    try:
        for folder in args.predictions:
            cases = measure_folder(args.reference, folder, args.margin)
            means = 100 * np.mean([case.mean(axis=0) for case in cases], axis=0)
            rows.append([str(folder), str(len(cases)), *(f"{value:.1f}" for value in means)])
    except UserError as error:
        print(f"near_the_object: {error}", file=sys.stderr)
        return 1
    print(markdown_table(["predictions", "cases", "Dice", "near", "precision", "recall"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
