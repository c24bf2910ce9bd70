"""What is special in `nnUNetTrainerACMT`: four selections, their passes, their dropout."""

import numpy as np
import pytest
import torch

from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

CALLED = {
    "entropy": [],
    "model_uncertainty": [
        "predictions.uncertainty.mean_probabilities",
        "predictions.uncertainty.predictive_entropy",
        "predictions.uncertainty.max_entropy",
    ],
    "confident_learning": [
        "predictions.confident_learning.label_issues",
        "predictions.confident_learning.voxel_label_issues",
    ],
    "prototype": [
        name if "." in name else f"predictions.prototype_labels.{name}"
        for name in (
            "pass_statistics",
            "rectified_labels",
            "resized",
            "class_prototypes",
            "prototype_distances",
            "nearest_prototype",
            "disagreement",
            "losses.entropy.clean_entropy",
        )
    ],
}
# passes over (student, teacher), the student's first one with the labeled patches; calls of the dropout, two a pass
PASSES = {
    "entropy": (1, 1, 0),
    "model_uncertainty": (9, 1, 16),
    "confident_learning": (1, 2, 0),
    "prototype": (1, 12, 20),
}

each_selection = pytest.mark.parametrize("selection", list(CALLED))


def a_trainer(datasets, tmp_path, selection, data=None, configuration="2d", **attributes):
    out, dataset = datasets(**(data or {}))
    trainer = started(
        make_trainer(
            "nnUNetTrainerACMT", out, dataset, configuration, results=tmp_path, selection=selection, **attributes
        )
    )
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    return trainer


@each_selection
def test_passes_dropout_and_functions_of_each_selection(selection, datasets, tmp_path, monkeypatch):
    trainer = a_trainer(datasets, tmp_path, selection)
    recorded = {name: record_calls(monkeypatch, f"nnunet_ssl.{name}") for name in CALLED[selection]}
    dropped = record_calls(monkeypatch, "nnunet_ssl.networks.dropout.drop_channels")
    calls = []
    for name, module in (("student", trainer.network), ("teacher", trainer.teacher.module)):
        forward = module.forward
        monkeypatch.setattr(module, "forward", lambda x, n=name, f=forward: calls.append(n) or f(x))
    values = trainer.train_step(next(trainer.dataloader_train))
    assert np.isfinite(values["loss"])
    assert (calls.count("student"), calls.count("teacher"), len(dropped)) == PASSES[selection]
    assert [name for name, made in recorded.items() if not made] == []
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step(copy_batch(next(trainer.dataloader_val)))
    assert len(dropped) == PASSES[selection][2]


@each_selection
@pytest.mark.parametrize("data", [{"regions": True}, {"ignore": True}, {"residual": True}], ids=str)
def test_each_selection_trains_with_every_kind_of_label_and_network(selection, data, datasets, tmp_path):
    trainer = a_trainer(datasets, tmp_path, selection, data)
    before = weights_of(trainer.network)
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)]
    assert all(np.isfinite(v) for o in outputs for v in o.values())
    assert largest_difference(before, weights_of(trainer.network)) > 0


@each_selection
@pytest.mark.parametrize("configuration, everywhere", [("2d", False), ("3d_fullres", False), ("3d_fullres", True)])
def test_each_selection_alone_trains_the_student(selection, configuration, everywhere, datasets, tmp_path):
    trainer = a_trainer(datasets, tmp_path, selection, configuration=configuration, train_with_dropout=everywhere)
    unlabeled = trainer.weights()
    trainer._weight_names, trainer.weights = None, lambda: {"labeled": 0.0} | unlabeled
    with torch.no_grad():  # a teacher that disagrees, so that there is something to select
        for parameter in trainer.teacher.module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    values = trainer.train_step(next(trainer.dataloader_train))
    assert all(np.isfinite(v) for v in values.values())
    assert all(values[term] > 0 for term in unlabeled)
    assert max(p.grad.abs().max() for p in trainer.network.parameters() if p.grad is not None) > 0
