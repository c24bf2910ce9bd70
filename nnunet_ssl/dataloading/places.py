"""Where foreground was found in unlabeled images, so that further patches lie around it.

nnU-Net draws a third of the labeled patches around foreground, because random patches of a large image seldom show a small object.
Nobody knows where the objects of an unlabeled image are. But a method that labels its unlabeled patches finds some in passing: the
trainer notes the middle of the patch down, and workers draw further patches near it, from memory that they share. No prediction of
whole images is needed, and the places follow the network while it learns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor
from torch import distributed as dist

from nnunet_ssl.data.annotated_classes import as_target

PLACES = 32  # that are kept of an object in a case, the newest
SELDOM = 0.5  # share of random patches with foreground, below which patches are drawn near it
_DRAWS = 2000  # random patches that this share is estimated with
_COMPARED = 2000  # voxels of foreground of a case that they are compared with


class FoundPlaces:
    """Places of every object in every unlabeled case: those that the trainer has noted, and those that workers see.

    Args:
        cases: all unlabeled cases of the fold.
        num_objects: foreground classes, or regions.
    """

    def __init__(self, cases: Collection[str], num_objects: int):
        self._row = {case: i for i, case in enumerate(sorted(cases))}
        shape = len(self._row), num_objects
        # of each case and object: places, in a ring, and how many were ever found
        self._noted = {
            "places": torch.zeros(*shape, PLACES, 3, dtype=torch.int32),
            "found": torch.zeros(shape, dtype=torch.int32),
        }
        self._shown = {name: table.clone().share_memory_() for name, table in self._noted.items()}
        self._of_epoch: list[tuple[Sequence[str], Tensor, Tensor]] = []

    def note(self, cases: Sequence[str], centers: Tensor, found: Tensor) -> None:
        """Take in the unlabeled patches of a step, without waiting for the device.

        Args:
            cases: of each patch.
            centers: int `(U, 3)`, the voxel of the image in the middle of each patch; on the CPU.
            found: bool `(U, objects)`, which objects each patch shows.
        """
        self._of_epoch.append((cases, centers, found))

    def end_epoch(self, is_ddp: bool) -> None:
        """Sort in what was noted in this epoch, on all processes."""
        seen = [
            (case, center, objects)
            for cases, centers, found in self._of_epoch
            for case, center, objects in zip(cases, centers.tolist(), found.cpu().tolist(), strict=True)
            if any(objects)
        ]
        self._of_epoch = []
        if is_ddp:
            everyone: list = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, seen)
            seen = [patch for part in everyone for patch in part]
        places, counts = self._noted["places"], self._noted["found"]
        for case, center, objects in seen:
            row = self._row[case]
            for index in np.flatnonzero(objects):
                places[row, index, int(counts[row, index]) % PLACES] = torch.tensor(center, dtype=torch.int32)
                counts[row, index] += 1

    def show(self) -> int:
        """Let the workers see what was noted. Returns the number of cases with a place.

        What a worker draws meanwhile may be of both: the caller has the pool changed, so that it is dropped (`UnlabeledPool`).
        """
        for name, table in self._noted.items():
            self._shown[name].copy_(table)
        return int((self._noted["found"] > 0).any(1).sum())

    def of(self, case: str) -> dict[int, np.ndarray]:
        """What workers see, as nnU-Net's `class_locations`: object -> voxels `(n, 4)`, whose first column is the channel's."""
        row = self._row[case]
        numbers = self._shown["found"][row].clamp(max=PLACES).tolist()
        places = self._shown["places"][row].numpy()
        return {i: np.pad(places[i, :n].astype(int), ((0, 0), (1, 0))) for i, n in enumerate(numbers) if n}

    def state_dict(self) -> dict:
        return {"cases": list(self._row), "noted": self._noted, "shown": self._shown}

    def load_state_dict(self, state: dict) -> None:
        """Cases that have gone since then are left out."""
        kept = [(i, self._row[case]) for i, case in enumerate(state["cases"]) if case in self._row]
        theirs, ours = (list(rows) for rows in zip(*kept)) if kept else ([], [])
        for name in self._noted:
            self._noted[name][ours] = state["noted"][name][theirs]
            self._shown[name][ours] = state["shown"][name][theirs]


def near(places: dict[int, np.ndarray], shape: Sequence[int], patch_size: Sequence[int]) -> dict[int, np.ndarray]:
    """One of the places of one of the objects, moved by up to a quarter of the patch, inside the image; in their form.

    A place is the middle of a patch that shows the object, not the object itself: without the move nothing else would ever be seen.
    """
    index = list(places)[np.random.choice(len(places))]
    chosen = places[index][np.random.choice(len(places[index]))]
    moved = [np.random.randint(c - n // 4, c + n // 4 + 1) for c, n in zip(chosen[1:], patch_size, strict=True)]
    return {index: np.array([[0, *np.clip(moved, 0, np.array(shape) - 1)]])}


def share_with_foreground(
    loader: nnUNetDataLoader, labeled, objects: Collection, annotated: Callable[[str], Collection] | None = None
) -> float:
    """How many random patches of labeled cases show foreground, as far as nnU-Net's preprocessing noted it down.

    Of the cases that annotate all objects. Where there is none, that of the object which most patches show: no patch shows less.

    Args:
        loader: whose random patches they are, without an ignore label. The same patches at each call; random numbers stay as they
            are.
        labeled: data set of the training cases.
        objects: keys of `class_locations` that are foreground classes or regions.
        annotated: case -> the objects that it annotates; None: all.
    """

    def share(of: Collection) -> float | None:
        cases = [case for case in labeled.identifiers if annotated is None or set(of) <= set(annotated(case))]
        np.random.seed(0)
        drawn = np.random.permutation(cases)[:_DRAWS]
        shown = [hit for case in drawn for hit in _shown(loader, labeled, case, of, -(-_DRAWS // len(drawn)))]
        return float(np.mean(shown)) if cases else None

    before = np.random.get_state()
    try:
        of_all = share(objects)
        return of_all if of_all is not None else max((share([one]) or 0.0 for one in objects), default=0.0)
    finally:
        np.random.set_state(before)


def _shown(loader: nnUNetDataLoader, labeled, case: str, objects: Collection, draws: int) -> list[bool]:
    image, _, _, properties = labeled.load_case(case)
    of_objects = [
        np.asarray(voxels)[:, 1:]
        for key, voxels in properties["class_locations"].items()
        if as_target(key) in objects and len(voxels)
    ]
    if not of_objects:
        return [False] * draws
    most = -(-_COMPARED // len(of_objects))
    voxels = np.concatenate([of_object[np.random.permutation(len(of_object))[:most]] for of_object in of_objects])
    boxes = (nnUNetDataLoader.get_bbox(loader, image.shape[1:], False, None) for _ in range(draws))
    return [bool(((voxels >= lower) & (voxels < upper)).all(1).any()) for lower, upper in boxes]
