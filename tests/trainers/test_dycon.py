"""What is special in `nnUNetTrainerDyCON`: where its cells and labels come from, its head, its options."""

import numpy as np
import pytest
import torch

from nnunet_ssl.networks.features import decoder_stage, encoder_stage
from tests.golden.framework import record_calls
from tests.helpers.training import largest_difference, make_trainer, started, weights_of


def a_trainer(datasets, tmp_path, data=None, configuration="2d", **attributes):
    out, dataset = datasets(**(data or {}))
    trainer = started(make_trainer("nnUNetTrainerDyCON", out, dataset, configuration, results=tmp_path, **attributes))
    return trainer, next(trainer.dataloader_train)


def calls_of(monkeypatch, function):
    return record_calls(monkeypatch, f"nnunet_ssl.{function}")


def test_labels_of_cells_are_the_annotation_and_the_teachers_prediction(datasets, tmp_path, monkeypatch):
    trainer, batch = a_trainer(datasets, tmp_path, unlabeled_batch_size=3)
    labels = calls_of(monkeypatch, "losses.cell_contrast.cell_labels")
    contrast = calls_of(monkeypatch, "losses.cell_contrast.focal_contrast")
    outputs = []
    forward = trainer.teacher.module.forward
    monkeypatch.setattr(trainer.teacher.module, "forward", lambda x: outputs.append(forward(x)) or outputs[-1])
    trainer.train_step(batch)
    (target, *_), (pseudo, *_) = (arguments for arguments, _ in labels)
    assert torch.equal(target, batch["target"][0])
    assert torch.equal(pseudo, outputs[0][2:].argmax(1, keepdim=True))
    ((embeddings, joint, *_), _), *_ = contrast
    assert embeddings.shape[:2] == joint.shape == (2 + 3, 6 * 6)  # the test network's deepest stage has stride 4


@pytest.mark.parametrize("data", [{"regions": True}, {"ignore": True}, {"residual": True}], ids=str)
def test_cells_in_3d_with_every_kind_of_label_and_network(data, datasets, tmp_path, monkeypatch):
    trainer, batch = a_trainer(datasets, tmp_path, data, "3d_fullres")
    contrast = calls_of(monkeypatch, "losses.cell_contrast.focal_contrast")
    assert all(np.isfinite(v) for v in trainer.train_step(batch).values())
    assert contrast[0][0][1].shape == (4, 3 * 6 * 6)


def test_head_and_its_average_are_trained(datasets, tmp_path):
    trainer, batch = a_trainer(datasets, tmp_path, uncertainty_weight=0.0, consistency_weight=0.0)
    before = weights_of(trainer.head.module)
    trainer.train_step(batch)
    assert largest_difference(before, weights_of(trainer.head.module)) > 0
    # the first update of a moving average is a copy
    assert largest_difference(weights_of(trainer.teacher_head.module), weights_of(trainer.head.module)) == 0
    assert not any(p.requires_grad for p in trainer.teacher_head.module.parameters())


def test_contrast_and_negatives_see_the_same_choice_of_cells(datasets, tmp_path, monkeypatch):
    trainer, batch = a_trainer(datasets, tmp_path, max_cells=7)
    contrast = calls_of(monkeypatch, "losses.cell_contrast.focal_contrast")
    negatives = calls_of(monkeypatch, "losses.cell_contrast.hard_negatives")
    trainer.train_step(batch)
    (embeddings, labels, *_), _ = contrast[0]
    (again, teacher, labels_again, _), _ = negatives[0]
    assert embeddings.shape[1] == 7 and teacher.shape == embeddings.shape
    assert again is embeddings and labels_again is labels
    assert not teacher.requires_grad


def test_schedules_are_fractions_of_the_run(datasets, tmp_path, monkeypatch):
    trainer, batch = a_trainer(datasets, tmp_path)
    uncertainty = calls_of(monkeypatch, "losses.selective.uncertainty_weighted_mse")
    negatives = calls_of(monkeypatch, "losses.cell_contrast.hard_negatives")
    per_run = trainer.num_epochs * trainer.num_iterations_per_epoch
    for progress in (0, 0.45, 1):
        trainer.iteration = int(progress * per_run)
        trainer.train_step(batch)
    unit = np.log(2) / np.log(3)  # three classes
    assert [c[0][2] for c in uncertainty] == pytest.approx([5 * unit, 5 * 0.1**0.45 * unit, 0.5 * unit])
    assert [c[0][3] for c in negatives] == pytest.approx([0.3 + 0.2 * np.exp(-5), 0.5, 0.5])
    assert trainer.weights()["consistency"] == pytest.approx(2.5 * np.exp(-5 / 9), rel=1e-3)


@pytest.mark.parametrize(("rampup", "shares"), [(0.4, [np.exp(-5), np.exp(-5 / 4), 1, 1]), (0.0, [1, 1, 1, 1])])
def test_uncertainty_and_contrast_come_in_when_the_network_has_learned(rampup, shares, datasets, tmp_path):
    trainer, _ = a_trainer(datasets, tmp_path, further_rampup=rampup)
    found = []
    for progress in (0, 0.2, 0.4, 1):
        trainer.iteration = int(progress * trainer.total_steps)
        weights = trainer.weights()
        assert weights["uncertainty"] == weights["contrast"] == weights["negatives"]
        found.append(weights["uncertainty"] / 0.5)
    assert found == pytest.approx(shares)


@pytest.mark.parametrize("as_released", [False, True])
def test_what_the_released_code_does_is_one_option(as_released, datasets, tmp_path, monkeypatch):
    trainer, batch = a_trainer(datasets, tmp_path, as_released=as_released)
    contrast = calls_of(monkeypatch, "losses.cell_contrast.focal_contrast")
    consistency = calls_of(monkeypatch, "losses.consistency.softmax_mse")
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert contrast[0][1]["column_shift"] is as_released
    first = next(a[0] for a, k in consistency if k.get("reduction") != "none")
    sums = first.sum(1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5) is as_released


# ------------------------------------------------------------------------------------------------------ network parts


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_stage_with_a_stride(configuration, datasets, tmp_path):
    trainer, _ = a_trainer(datasets, tmp_path, configuration=configuration)
    network = trainer.student.module
    dimension = 2 if configuration == "2d" else 3
    for stride, index in ((1, 0), (2, 1), (3, 2), (4, 2), (8, 2)):
        stage, along_axes, features = encoder_stage(network, stride)
        assert stage is network.encoder.stages[index]
        assert along_axes == (2**index,) * dimension
        assert features == (8, 12, 16)[index]
    assert [list(network.decoder.stages).index(decoder_stage(network, below)) for below in (0, 1, 5)] == [1, 0, 0]
    with pytest.raises(NotImplementedError, match=r"encoder\.stages"):
        encoder_stage(torch.nn.Linear(1, 1), 2)
