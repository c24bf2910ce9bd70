"""scribble_generators.npz: scribbles, seeds and boxes from dense labels.

The draws that the file's seed gives are followed where our rule is the official one.
"""

import random

import numpy as np

from nnunet_ssl.weak.boxes import filled_boxes, tight_box
from nnunet_ssl.weak.points import centroid_disk, eroded_seed, random_disk
from nnunet_ssl.weak.strokes import (
    cut_branches,
    eroded_skeleton,
    lee_skeleton,
    line_pixels,
    paint,
    skeleton_stroke,
    walk_stroke,
)
from tests.golden.framework import GoldenFile

TRAINER = None
USES = ()
_COMMAND = "makes data, not a loss: `nnunet_ssl weaken` calls it"
REFERENCE_ONLY = {
    f"nnunet_ssl.weak.{name}": _COMMAND
    for name in (
        "boxes.filled_boxes",
        "boxes.tight_box",
        "points.centroid_disk",
        "points.eroded_seed",
        "points.random_disk",
        "strokes.cut_branches",
        "strokes.eroded_skeleton",
        "strokes.lee_skeleton",
        "strokes.line_pixels",
        "strokes.paint",
        "strokes.skeleton_stroke",
        "strokes.walk_stroke",
    )
}
NOT_FOLLOWED = {
    "scribblebench_scribble": "a random draw, and one with a defect: the released code asks for the intersection of a line with "
    "the area of the component where it means its outline, so that control points are never pulled back into sight. Ours are; "
    "tests/test_weak_strokes.py compares amounts, classes and slices with this draw",
    "s2l_fg": "a random draw of a rule that is not offered (a random part of the skeleton's components, binary masks only)",
    "s2l_bg": "the same draw; the released complement is right only for unsigned masks of 0 and 1",
}
# numbers that stand in the sidecar's `meaning`
CLASS, WIDTH, MARGIN, EROSIONS = 3, 4, 10, (1, 3)
LINE = (2, 3), (11, 7)


def wsl_generate_scribble(labels: np.ndarray, codes: range, rng: random.Random) -> np.ndarray:
    """All draws of a class before those of the next: the erosions of all slices, then the paths."""
    strokes = {}
    for code in codes:
        masks = [part == code for part in labels]
        skeletons = [eroded_skeleton(mask, rng, EROSIONS) for mask in masks]
        if code:
            skeletons = [cut_branches(s, mask, rng) if s.any() else s for s, mask in zip(skeletons, masks)]
        strokes[code or len(codes)] = np.stack(skeletons)
    return paint(strokes, unlabeled=0)


def _centroid(mask: np.ndarray) -> np.ndarray:
    """In the released code a mask that the disk misses keeps its own value, 1, where the code of the class is meant."""
    whole, innermost = (centroid_disk(mask, WIDTH, if_outside=part) for part in ("whole", "innermost"))
    return paint({CLASS if (whole == innermost).all() else 1: whole}, unlabeled=0)


def _walks(file: GoldenFile, masks: list[np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The released walk leaves an image that is higher than wide at its right edge, and fails: then a draw has none."""
    if "maag_random_walk" not in file.outputs:
        return {}
    rng = np.random.RandomState(seed)
    return {"maag_random_walk": np.stack([walk_stroke(mask, rng, released_clipping=True) for mask in masks], axis=-1)}


def adapt(file: GoldenFile) -> dict:
    labels = file.inputs["labels"]
    codes = range(max(labels.ravel().tolist()) + 1)
    seed = file.constant("seed")
    masks = [labels[0] == code for code in codes]
    seeds = {
        "weak_erosion_strat": eroded_seed(masks[CLASS]),
        "weak_random_strat": random_disk(masks[CLASS], WIDTH, np.random.RandomState(seed)),
        "weak_box_strat": filled_boxes([tight_box(masks[CLASS])], labels[0].shape),
        "weak_box_strat_m10": filled_boxes([tight_box(masks[CLASS], MARGIN)], labels[0].shape),
    }
    return {key: paint({CLASS: stroke}, unlabeled=0) for key, stroke in seeds.items()} | {
        "wsl_skeleton_noerosion": np.stack([[lee_skeleton(part == code) for part in labels] for code in codes]),
        "wsl_generate_scribble": wsl_generate_scribble(labels, codes, random.Random(seed)),
        "maag_skeleton": np.stack([skeleton_stroke(mask) for mask in masks], axis=-1),
        "bresenham": line_pixels(*LINE),
        "weak_centroid_strat": _centroid(masks[CLASS]),
        **_walks(file, masks, seed),
    }
