"""Trainers for a given spacing and patch, which no data set has to have."""

from __future__ import annotations

import types

import pytest

from nnunet_ssl.networks import transformer
from tests.helpers.training import make_trainer


@pytest.fixture
def built(datasets, tmp_path):
    """A trainer that has run `build_method` for a spacing and a patch of this size, and what it wrote to the log."""

    def build(name, spacing, patch=None, channels=1, **attributes):
        out, dataset = datasets(ignore=True, unlabeled=0)
        dimension = "2d" if len(spacing) == 2 else "3d_fullres"
        trainer = make_trainer(name, out, dataset, dimension, results=tmp_path, **attributes)
        trainer.configuration_manager = types.SimpleNamespace(spacing=spacing, patch_size=patch or (16,) * len(spacing))
        trainer.num_input_channels = channels  # as initialize() sets it
        said = []
        trainer.print_to_log_file = lambda *text, **_: said.append(" ".join(map(str, text)))
        trainer.build_method()
        return trainer, "\n".join(said)

    return build


@pytest.fixture(autouse=True)
def small_transformers(monkeypatch):
    """nnU-Net's smallest Primus has 24 million parameters, which is most of the time of a step on a CPU."""
    monkeypatch.setitem(transformer.SIZES, "S", (36, 2, 6))
