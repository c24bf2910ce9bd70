"""MAAG: unpaired masks, and the discriminator of masks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from nnunet_ssl.errors import UserError
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, copy_dataset, make_trainer, started, weights_of

TRAINER = "nnUNetTrainerMAAG"


def test_missing_and_stale_masks_and_masks_of_the_fold_are_refused(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    trainer = make_trainer(TRAINER, out, dataset, results=tmp_path)
    trainer.initialize()
    with pytest.raises(UserError, match=r"masksUn of nnUNet_raw/Dataset991.*preprocess_unlabeled -d 991 -c 2d -p"):
        trainer.on_train_start()

    out, dataset = datasets(ignore=True, unlabeled=0, masks=2)
    out = copy_dataset(out, tmp_path / "copy")
    file = out / "nnUNet_preprocessed" / dataset / "nnUNetPlans_2d_masks.json"
    manifest = json.loads(file.read_text())
    assert sorted(manifest["cases"]) == ["mask_00", "mask_01"]
    file.write_text(json.dumps(manifest | {"preprocessing_hash": "0"}))
    with pytest.raises(UserError, match=r"unfinished or made with other plans"):
        make_trainer(TRAINER, out, dataset, results=tmp_path / "b").on_train_start()
    file.write_text(json.dumps(manifest))
    split = out / "nnUNet_preprocessed" / dataset / "splits_final.json"
    (fold,) = json.loads(split.read_text())
    for place in ("train", "val"):
        split.write_text(json.dumps([fold]))
        os.environ["nnUNet_preprocessed"] = str(out / "nnUNet_preprocessed")
        renamed = fold[place][0]
        folder = out / "nnUNet_preprocessed" / dataset / "nnUNetPlans_2d_masks"
        for ending in (".pkl", ".b2nd", "_seg.b2nd"):
            (folder / f"{renamed}{ending}").write_bytes((folder / f"mask_01{ending}").read_bytes())
        file.write_text(json.dumps(manifest | {"cases": manifest["cases"] | {renamed: ""}}))
        kind = {"train": "training", "val": "validation"}[place]
        with pytest.raises(UserError, match=rf"{renamed} is \(are\) also {kind} case"):
            make_trainer(TRAINER, out, dataset, results=tmp_path / place).on_train_start()


@pytest.mark.parametrize("options", [{}, {"regions": True}], ids=str)
def test_the_discriminator_sees_masks_and_predictions_and_teaches_only_the_student(
    options, datasets, tmp_path, monkeypatch
):
    out, dataset = datasets(ignore=True, unlabeled=0, masks=2, **options)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path, label_noise=0.0, instance_noise=0.0))
    batch = next(trainer.dataloader_train)
    assert len(batch["extra/masks"]) == len(batch["data"])
    seen = []
    module = trainer.discriminator.module
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda masks: seen.append(masks) or forward(masks))
    calls = record_calls(monkeypatch, "nnunet_ssl.losses.adversarial_masks.least_squares_generator_loss")
    before = weights_of(module)
    trainer.train_step(copy_batch(batch))
    both, fake = seen
    assert [m.shape[0] for m in both] == [4, 4] and [m.shape[0] for m in fake] == [2, 2]
    assert not any(m.requires_grad for m in both) and all(m.requires_grad for m in fake)
    masks = batch["extra/masks"]
    expected = masks[:, :2].float() if options else torch.cat([(masks == c).float() for c in (1, 2)], 1)
    assert torch.equal(both[0][:2], expected) and torch.equal(both[0][2:], fake[0].detach())
    after = weights_of(module)
    assert any(not torch.equal(before[k], after[k]) for k in before if "weight" in k or "bias" in k)
    # the generator's loss alone: it changes the student and not the discriminator
    trainer._weight_names = None
    trainer.weights = lambda: {"labeled": 0.0, "adversarial": 1.0, "discriminator": 0.0}
    calls.clear()
    trainer.train_step(copy_batch(batch))
    assert calls and all(p.grad is None for p in module.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trainer.network.parameters())


def test_patches_of_masks_are_augmented_but_hold_labels_only(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, masks=2)
    trainer = started(make_trainer(TRAINER, out, dataset, "3d_fullres", results=tmp_path))
    masks = torch.cat([next(trainer.dataloader_train)["extra/masks"] for _ in range(6)])
    assert masks.shape[1:] == (1, 12, 24, 24) and set(masks.unique().tolist()) == {0, 1, 2}
    assert len({int((m > 0).sum()) for m in masks}) > 6


def test_one_scale_resizes_the_prediction_of_the_highest_resolution(datasets, tmp_path, monkeypatch):
    out, dataset = datasets(ignore=True, unlabeled=0, masks=2)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path, scales=1))
    calls = record_calls(monkeypatch, "nnunet_ssl.networks.mask_discriminator.mask_levels")
    trainer.train_step(next(trainer.dataloader_train))
    assert [len(masks) for (masks, _), _ in calls] == [1, 1]


@pytest.mark.parametrize("file", ["unlabeled.json", "dataset.json"])
@pytest.mark.parametrize(("place", "used"), [("val", ["mask_00"]), ("train", ["mask_00", "mask_01"])])
def test_masks_of_patients_who_validate_are_left_out(datasets, tmp_path, file, place, used):
    out, dataset = datasets(ignore=True, unlabeled=0, masks=2)
    out = copy_dataset(out, tmp_path / "copy")
    base = out / "nnUNet_preprocessed" / dataset
    (fold,) = json.loads((base / "splits_final.json").read_text())
    content = json.loads((base / file).read_text()) if (base / file).is_file() else {"format": 1}
    groups = {"mask_01": "someone", fold[place][0]: "someone"}
    (base / file).write_text(json.dumps(content | {"groups": groups}))
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path / "results"))
    assert trainer.dataloader_train.data_loader.streams["masks"]._data.identifiers == used
    assert ("1 mask(s) of patients" in Path(trainer.log_file).read_text()) == (len(used) == 1)
