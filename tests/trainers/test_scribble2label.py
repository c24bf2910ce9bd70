"""Scribble2Label: ensemble and labels by hand, the files of a run, and how labels reach a patch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nnunet_ssl.dataloading.extra_labels import labels_file
from nnunet_ssl.predictions.ensemble_labels import (
    NONE,
    pack_regions,
    unpack_regions,
)
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, seed_everything, started

S2L = "nnUNetTrainerScribble2Label"
SPARSE = {"ignore": True, "unlabeled": 0}


# ------------------------------------------------------------------------------------------------------------ the trainer


def s2l(datasets, tmp_path, configuration="2d", options=(), **attributes):
    out, dataset = datasets(**SPARSE, **dict(options))
    return started(make_trainer(S2L, out, dataset, configuration, results=tmp_path, **attributes))


def own_segmentation(trainer, case):
    return trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]).load_case(case)[1][:]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_labels_are_those_of_the_prediction_where_nothing_is_annotated(configuration, datasets, tmp_path, monkeypatch):
    trainer = s2l(datasets, tmp_path, configuration, confidence=0.35)
    names = [
        "predictions.ensemble_labels.confident_labels",
        "predictions.ensemble_labels.update_ensemble",
        "predictions.probabilities.probabilities",
    ]
    calls = [record_calls(monkeypatch, f"nnunet_ssl.{name}") for name in names]
    predicted = []
    original = type(trainer).predicted_cases

    def predicted_cases(self, dataset, **options):
        for case, p in original(self, dataset, **options):
            predicted.append((case, p.clone()))
            yield case, p

    monkeypatch.setattr(type(trainer), "predicted_cases", predicted_cases)
    trainer.network.train()
    trainer.update_labels()
    assert trainer.network.training and trainer.network.decoder.deep_supervision
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.mul_(1.5)
    trainer.update_labels()
    assert all(calls) and trainer.ensemble.updates == 2 and trainer.ensemble.is_complete()
    cases = trainer.do_split()[0]
    assert sorted({case for case, _ in predicted}) == sorted(cases) and len(predicted) == 2 * len(cases)
    files = [np.load(labels_file(trainer.ensemble.folder, case)) for case in cases]
    share = sum((f != NONE).sum() for f in files) / sum((own_segmentation(trainer, c) == 3).sum() for c in cases)
    (log,) = tmp_path.rglob("training_log*.txt")
    assert f"Ensemble, update 2: {share:.1%} of the voxels" in log.read_text() and share > 0
    for case in cases:
        first, second = (p for c, p in predicted if c == case)
        ensemble = (first.half().float() + second) / 2  # the plain mean until 1 / alpha
        torch.testing.assert_close(trainer.ensemble.ensemble(case), ensemble, rtol=2e-3, atol=2e-3)
        assert torch.allclose(first.sum(0), torch.ones(first.shape[1:]))
        labels = np.load(labels_file(trainer.ensemble.folder, case))
        free = own_segmentation(trainer, case)[0] == 3
        assert (labels[~free] == NONE).all() and free.any() and not free.all()
        sure = ensemble.amax(0).numpy()
        clear = free & (np.abs(sure - 0.35) > 0.01)
        expected = np.where(sure > 0.35, ensemble.argmax(0).numpy(), NONE)
        two = np.sort(ensemble.numpy(), axis=0)[-2] > 0.345  # of two confident classes the last counts
        assert (labels[clear & ~two] == expected[clear & ~two]).all() and (labels[free] != NONE).any()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_labels_are_augmented_with_the_patch_and_change_nothing_else(configuration, regions, datasets, tmp_path):
    """The files hold each case's own labels: what arrives must be the target, apart from the rounding of rotations."""
    trainer = s2l(datasets, tmp_path, configuration, options={"regions": regions})
    stock = make_trainer(
        "nnUNetTrainer", *datasets(**SPARSE, regions=regions), configuration, results=tmp_path / "stock"
    )
    stock.initialize(), stock.on_train_start()
    trainer.ensemble.start_update()
    for case in trainer.do_split()[0]:
        own = torch.from_numpy(own_segmentation(trainer, case)).long()[None]
        labels = torch.where(own == 3, NONE, own)
        if regions:
            labels = pack_regions(
                torch.cat([torch.where(labels == NONE, NONE, x.long()) for x in (own >= 1, own == 2)], 1)
            )
        trainer.ensemble.write(case, torch.zeros(1), labels[0, 0])
    padded = 0
    for seed in range(6):
        seed_everything(seed)
        expected = next(stock.dataloader_train)
        seed_everything(seed)
        batch = next(trainer.dataloader_train)
        assert torch.equal(batch["data"], expected["data"])
        assert all(torch.equal(a, b) for a, b in zip(batch["target"], expected["target"], strict=True))
        labels, inside, target = batch["extra/pseudo"], batch["labeled_inside"], batch["target"][0]
        assert labels.shape == inside.shape
        padded += int((~inside).sum())
        if regions:
            found = unpack_regions(labels, 2)
            annotated = (target[:, 2:] == 0) & inside
            agree = torch.where(annotated, found == target[:, :2].long(), found == NONE)
        else:
            agree = torch.where((target == 3) | ~inside, labels == NONE, labels == target)
        assert agree.float().mean() > 0.97
    assert padded > 0


def test_more_regions_than_a_map_holds_are_refused(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_ssl.trainers.sparse.scribble2label.MAX_REGIONS", 1)
    with pytest.raises(NotImplementedError, match="at most 1 regions into one label map, the data set has 2"):
        s2l(datasets, tmp_path, options={"regions": True})


def test_before_the_first_update_there_are_no_labels(datasets, tmp_path):
    trainer = s2l(datasets, tmp_path)
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    batch = next(trainer.dataloader_train)
    assert (batch["extra/pseudo"] == NONE).all()
    values = trainer.train_step(batch)
    assert values["pseudo"] == 0 and np.isfinite(values["loss"])


def test_the_term_is_the_cross_entropy_of_all_scales(datasets, tmp_path):
    trainer = s2l(datasets, tmp_path)
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    batch = next(trainer.dataloader_train)
    trainer.loss.weight_factors = (0.75, 0.25)  # nnU-Net's for two scales are 1 and 0
    batch["extra/pseudo"] = torch.randint(-1, 3, batch["extra/pseudo"].shape, dtype=torch.int16)
    with torch.no_grad():
        scales = trainer.network(batch["data"])
    expected = 0.0
    for z, weight in zip(scales, (0.75, 0.25), strict=True):
        step = 24 // z.shape[-1]
        u = batch["extra/pseudo"][:, 0, step // 2 :: step, step // 2 :: step].long()
        expected += weight * torch.nn.functional.cross_entropy(z, u, ignore_index=-1)
    values = trainer.train_step(copy_batch(batch))
    assert float(values["pseudo"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(values["loss"]) == pytest.approx(float(values["labeled"]) + 0.5 * float(values["pseudo"]), rel=1e-5)


def test_when_the_ensemble_is_updated_and_from_when_it_counts(datasets, tmp_path, monkeypatch):
    trainer = s2l(datasets, tmp_path, num_epochs=10, num_iterations_per_epoch=2, updates=5)
    updated = []
    monkeypatch.setattr(type(trainer), "update_labels", lambda self: updated.append(self.current_epoch))
    weights = []
    for trainer.current_epoch in range(10):
        trainer.iteration = 2 * trainer.current_epoch
        weights.append(trainer.weights()["pseudo"])
        trainer.after_epoch()
    assert updated == [1, 3, 5, 7] and weights == [0.0] + 9 * [0.5]


def test_training_goes_on_with_the_files_of_its_checkpoint_only(datasets, tmp_path):
    trainer = s2l(datasets, tmp_path, confidence=0.2)
    trainer.update_labels()
    trainer.save_checkpoint(str(tmp_path / "one.pth"))
    trainer.update_labels()
    trainer.save_checkpoint(str(tmp_path / "two.pth"))
    before = {f.name: f.read_bytes() for f in trainer.ensemble.folder.iterdir()}

    def continued(file):
        other = make_trainer(S2L, *datasets(**SPARSE), results=tmp_path, confidence=0.2)
        other.load_checkpoint(str(tmp_path / file))
        other.on_train_start()
        return other

    other = continued("two.pth")
    assert other.ensemble.updates == 2 and {f.name: f.read_bytes() for f in other.ensemble.folder.iterdir()} == before
    assert any((next(other.dataloader_train)["extra/pseudo"] != NONE).any() for _ in range(4))
    other = continued("one.pth")
    assert other.ensemble.updates == 0 and not other.ensemble.folder.exists()
    logs = "".join(f.read_text() for f in tmp_path.rglob("training_log*.txt"))
    assert logs.count("the ensemble begins anew") == 1
    other.update_labels()
    assert json.loads((other.ensemble.folder / "updates.json").read_text()) == {"updates": 1}
