"""Labeled and unlabeled patches from the same worker processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_ssl.dataloading.dataset import UnlabeledDataset
from nnunet_ssl.dataloading.places import FoundPlaces, near
from nnunet_ssl.dataloading.pool import UnlabeledPool
from nnunet_ssl.dataloading.recorder import Recorder


def _exit_with_parent(parent: int, poll_seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(poll_seconds)
    os._exit(1)  # the trainer was killed: nobody will ever read from the queue or ask this process to stop


class UnlabeledLoader(nnUNetDataLoader):
    """nnU-Net's loader on images without labels: patches at random places, or near those where foreground was found.

    Attributes:
        centers: the voxel in the middle of each patch that was drawn; for the caller to empty.
    """

    def __init__(self, data: UnlabeledDataset, batch_size, patch_size, final_patch_size, label_manager, transforms):
        super().__init__(
            data,
            batch_size,
            patch_size,
            final_patch_size,
            label_manager,
            oversample_foreground_percent=0.0,
            transforms=transforms,
        )
        # With an ignore label nnU-Net samples around annotated voxels, and unlabeled cases have none.
        self.has_ignore = False
        self.centers: list[list[int]] = []

    def draw_near(self, places: FoundPlaces, share: float) -> None:
        """From now on this share of the patches lies near one of the places, where the case has any."""
        self._data.places = places
        self.oversample_foreground_percent = share
        self.get_do_oversample = self._probabilistic_oversampling  # of single patches, too

    def get_bbox(self, data_shape, force_fg, class_locations, *args, **kwargs):
        if force_fg and class_locations:
            class_locations = near(class_locations, data_shape, self.patch_size)
        lower, upper = super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)
        self.centers.append([int(a + b) // 2 for a, b in zip(lower, upper)])
        return lower, upper


class TwoStreamLoader:
    """What one worker process runs: a labeled batch and, beside it, unlabeled ones.

    The labeled stream is the stock loader, untouched. Batches are those of the labeled loader plus `unlabeled`
    `(U, V*C, *spatial)` (V views stacked along channels), `inside` `(U, 1, *spatial)` bool, `unlabeled_keys` and
    `unlabeled_centers` (int `(U, 3)`, the voxel in the middle of each patch); and what each `Recorder` among the labeled
    transforms has noted down, under its `key`. Where the unlabeled loader is another one than `UnlabeledLoader`, its patches have
    labels: `unlabeled_target`, like `target`, in the place of `inside` and the centers.
    A worker process ends by itself within about a second when its parent is gone, even if that was killed.

    Args:
        labeled: the loader that nnU-Net made.
        unlabeled: None gives the labeled stream alone (validation).
        labeled_extras: see the trainer's seam of this name; its tensors join the batch as `extra/<name>`.
        streams: name -> a further loader of patches; its targets join the batch as `extra/<name>`.
        further: name -> a further loader of unlabeled patches; what it gives joins the batch as `further/<name>/unlabeled`,
            `.../inside` and `.../unlabeled_keys`.
        pool: what `unlabeled` and `further` draw from; read anew for every batch, whose `pool_version` says which one it was. An
            empty pool: batches without unlabeled patches.
    """

    parent_poll_seconds = 1.0

    def __init__(
        self,
        labeled: nnUNetDataLoader,
        unlabeled: nnUNetDataLoader | None = None,
        labeled_extras: Callable[[Tensor], dict[str, Tensor]] | None = None,
        streams: Mapping[str, nnUNetDataLoader] | None = None,
        further: Mapping[str, UnlabeledLoader] | None = None,
        pool: UnlabeledPool | None = None,
    ):
        self.streams = dict(streams or {})
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.further = dict(further or {})
        self.pool = pool
        self.labeled_extras = labeled_extras
        transforms = getattr(labeled.transforms, "transforms", ())
        self._recorders = [t for t in transforms if isinstance(t, Recorder)]
        self._created_in = os.getpid()

    @property
    def transforms(self):
        return self.labeled.transforms  # nnU-Net writes these to debug.json

    def set_thread_id(self, thread_id: int) -> None:
        for loader in (self.labeled, self.unlabeled, *self.further.values(), *self.streams.values()):
            if loader is not None:
                loader.set_thread_id(thread_id)
        if os.getpid() != self._created_in:
            threading.Thread(
                target=_exit_with_parent, args=(os.getppid(), self.parent_poll_seconds), daemon=True
            ).start()

    def __iter__(self):
        return self

    def __next__(self) -> dict:
        batch = next(self.labeled)
        batch |= {recorder.key: recorder.pop() for recorder in self._recorders}
        if self.pool is not None:
            version, cases, probabilities = self.pool.read()
            batch["pool_version"] = version
            if cases:
                batch |= self._drawn(self.unlabeled, cases, probabilities)
        if self.labeled_extras is not None:
            target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
            batch |= {f"extra/{name}": tensor for name, tensor in self.labeled_extras(target).items()}
        batch |= {f"extra/{name}": next(loader)["target"] for name, loader in self.streams.items()}
        if "unlabeled" in batch:
            for name, loader in self.further.items():
                drawn = self._drawn(loader, cases, probabilities)
                batch |= {f"further/{name}/{key}": value for key, value in drawn.items()}
        return batch

    @staticmethod
    def _drawn(loader: nnUNetDataLoader, cases: list[str], probabilities: np.ndarray | None) -> dict:
        """The next unlabeled patches, of these cases."""
        loader.indices, loader.sampling_probabilities = cases, probabilities
        if isinstance(loader, UnlabeledLoader):
            loader.centers = []
        drawn = next(loader)
        found = {"unlabeled": drawn["data"], "unlabeled_keys": drawn["keys"]}
        if isinstance(loader, UnlabeledLoader):
            return found | {"inside": drawn["target"] >= 0, "unlabeled_centers": torch.tensor(loader.centers)}
        return found | {"unlabeled_target": drawn["target"]}
