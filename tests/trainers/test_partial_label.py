"""The trainers for partial labels: what reaches the loss, and pseudo labels."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.candidate_sets import partial_label_loss
from nnunet_ssl.predictions.candidates import annotation_matrix
from tests.golden.framework import record_calls
from tests.helpers.trainers import next_batches, run_steps
from tests.helpers.training import (
    copy_batch,
    make_trainer,
    started,
)

TRAINER = "nnUNetTrainerPartialLabel"


LOSSES = "nnunet_ssl.losses.candidate_sets."


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_the_loss_is_that_of_each_scale_with_what_its_case_annotates(
    configuration, deep_supervision, datasets, tmp_path
):
    out, dataset = datasets(partial=True, unlabeled=0)
    options = {"results": tmp_path, "enable_deep_supervision": deep_supervision, "exclusion_weight": 0.5}
    trainer = started(make_trainer(TRAINER, out, dataset, configuration, **options))
    sets = {"case_00": [1], "case_01": [2], "case_02": [1, 2]}
    seen = set()
    for batch in next_batches(trainer, 4):
        scales = trainer.student(batch["data"])
        targets = batch["target"] if deep_supervision else [batch["target"]]
        annotated = annotation_matrix([sets[str(key)] for key in batch["keys"]], 2)
        expected = sum(
            weight
            * partial_label_loss(
                scale, target, annotated, batch_dice=trainer.configuration_manager.batch_dice, exclusion_weight=0.5
            )
            for weight, scale, target in zip(trainer.scale_weights, scales, targets)
            if weight
        )
        assert trainer.train_step(batch)["labeled"] == pytest.approx(expected.item(), abs=1e-6)
        seen |= {str(key) for key in batch["keys"]}
    assert len(seen) > 1


@pytest.mark.parametrize(
    "attributes, options, called",
    [
        ({"exclusion_weight": 2.0}, {}, ["exclusion_loss", "excluded_voxels"]),
        ({"sum_logits": True}, {}, ["summed_logits"]),
        (
            {"region_reduction": "sum"},
            {"regions": True},
            ["partial_region_loss", "partial_region_cross_entropy", "partial_region_dice_loss"],
        ),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, dict) else "",
)
def test_options_reach_the_functions_under_golden_values(attributes, options, called, datasets, tmp_path, monkeypatch):
    out, dataset = datasets(partial=True, unlabeled=0, **options)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path, **attributes))
    calls = {name: record_calls(monkeypatch, LOSSES + name) for name in called}
    outputs = run_steps(trainer, next_batches(trainer, 2))
    assert all(calls.values()) and all(np.isfinite(o["loss"]) for o in outputs)


def test_the_teacher_labels_hidden_voxels_after_the_warm_up_only(datasets, tmp_path, monkeypatch):
    out, dataset = datasets(partial=True, unlabeled=0)
    options = {"threshold": 0.4, "competence": 0.0}
    trainer = started(make_trainer("nnUNetTrainerPartialLabelMT", out, dataset, results=tmp_path, **options))
    calls = record_calls(monkeypatch, LOSSES + "partial_label_loss")
    steps = trainer.num_epochs * trainer.num_iterations_per_epoch
    accepted = 0
    for iteration in (0, steps // 4 - 1, steps // 4, steps // 2):
        trainer.iteration = iteration
        calls.clear()
        (batch,) = next_batches(trainer)
        trainer.train_step(copy_batch(batch))
        for (_, target, annotated, *_), options in calls:
            pseudo = options["pseudo"]
            if iteration < steps // 4:
                assert pseudo is None
                continue
            assert pseudo.shape == target.shape and not pseudo.requires_grad
            for case, classes in zip(pseudo, annotated):
                assert set(case.unique().tolist()) <= {-1, 0} | {k for k in (1, 2) if not classes[k - 1]}
            if pseudo.shape == batch["labeled_inside"].shape:
                assert (pseudo[~batch["labeled_inside"]] == -1).all()
            accepted += int((pseudo >= 0).sum())
    assert accepted > 0


@pytest.mark.parametrize(
    "name, attributes, regions, error, message",
    [
        (TRAINER, {"region_reduction": "median"}, True, UserError, "Allowed: 'mean' or 'sum'"),
        (TRAINER, {"exclusion_weight": 2.0}, True, NotImplementedError, "for classes, not for regions"),
        (TRAINER, {"sum_logits": True}, True, NotImplementedError, "for classes, not for regions"),
        (TRAINER + "MT", {"sum_logits": True}, False, NotImplementedError, "no probabilities for pseudo labels"),
    ],
)
def test_options_that_do_nothing_or_fail_later_are_refused_at_the_start(
    name, attributes, regions, error, message, datasets, tmp_path
):
    out, dataset = datasets(partial=True, unlabeled=0, regions=regions)
    with pytest.raises(error, match=message):
        make_trainer(name, out, dataset, results=tmp_path, **attributes).initialize()
