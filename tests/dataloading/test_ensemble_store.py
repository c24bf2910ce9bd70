"""Tests of `nnunet_ssl.dataloading.ensemble_store`."""

from __future__ import annotations

import numpy as np
import torch

from nnunet_ssl.dataloading.ensemble_store import EnsembleStore
from nnunet_ssl.dataloading.extra_labels import labels_file


def test_the_store_keeps_ensembles_and_knows_whose_files_they_are(tmp_path):
    store = EnsembleStore(tmp_path / "ensemble")
    assert store.ensemble("a") is None and not store.is_complete()
    store.start_update()
    ensemble = torch.rand(2, 3, 4, 5)
    store.write("a", ensemble, torch.arange(60).view(3, 4, 5) % 7 - 1)
    assert not store.is_complete()
    store.finish_update()
    assert store.is_complete() and store.state_dict() == {"updates": 1}
    torch.testing.assert_close(store.ensemble("a"), ensemble, rtol=1e-3, atol=1e-3)  # half precision
    labels = np.load(labels_file(store.folder, "a"))
    assert labels.dtype == np.int16 and labels.shape == (3, 4, 5) and labels.min() == -1
    later = EnsembleStore(store.folder)
    assert not later.is_complete(), "another run's files"
    later.load_state_dict({"updates": 1})
    assert later.is_complete()
    later.start_update()
    assert not store.is_complete() and not later.is_complete()
    later.restart()
    assert later.updates == 0 and not store.folder.exists()
