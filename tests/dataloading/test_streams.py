"""The unlabeled stream in a real run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.dataloading.streams import refuse_single_patches
from nnunet_ssl.dataloading.views import StackedViews, without_intensity
from nnunet_ssl.errors import UserError
from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.training import make_trainer, started

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


def test_the_pool_can_shrink_to_nothing(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    trainer.set_unlabeled_cases(["free_01"])
    batch = next(trainer.dataloader_train)
    assert set(map(str, batch["unlabeled_keys"])) == {"free_01"}
    with pytest.raises(ValueError, match="case_00"):
        trainer.set_unlabeled_cases(["case_00"])
    trainer.set_unlabeled_cases([])
    batch = next(trainer.dataloader_train)
    assert "unlabeled" not in batch
    assert trainer.train_step(batch)["consistency"] == 0


def test_unlabeled_patches_pass_through_nnunets_geometry_and_intensity(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer("nnUNetTrainerTestShrinkingPool", out, dataset, results=tmp_path))
    batch = next(trainer.dataloader_train)
    weak, strong = batch["unlabeled"].chunk(2, dim=1)
    assert trainer.view_names == ("weak", "strong")
    assert weak.shape == strong.shape == (2, 1, 24, 24) and batch["inside"].dtype == torch.bool
    # same geometry: the views of one patch resemble each other, those of different patches do not
    pairs = [np.corrcoef(weak[i].ravel(), strong[i].ravel())[0, 1] for i in range(2)]
    assert min(pairs) > 0.7
    views = trainer.dataloader_train.data_loader.unlabeled.transforms
    names = [type(t).__name__ for t in views.geometry.transforms]
    assert names == ["SpatialTransform", "MirrorTransform"]
    assert len(views.views["strong"].transforms) == 8 and not views.views["weak"].transforms


def test_padding_is_marked_as_outside(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    outside = 0
    for _ in range(20):
        batch = next(trainer.dataloader_train)
        outside += int((~batch["inside"]).sum())
        if outside:
            break
    assert outside


def _first_channel_inside_the_mask(plans: dict) -> None:
    """As nnU-Net plans an MR beside a CT, whose intensities are not 0 where there is nothing."""
    for configuration in ("2d", "3d_fullres"):
        plans["configurations"][configuration]["use_mask_for_norm"] = [True, False]


def test_outside_is_where_the_channels_with_a_mask_are_zero(datasets, tmp_path):
    options = {"channels": 2, "mask_norm": True, "change_plans": _first_channel_inside_the_mask}
    trainer = start(*datasets(**options), tmp_path)
    batch = next(trainer.dataloader_train)
    weak = batch["unlabeled"][:, 2:]  # of two views the second
    outside = ~batch["inside"].expand(-1, 2, -1, -1)
    assert 0.1 < outside.float().mean() < 0.9
    assert (weak[:, 0][outside[:, 0]] == 0).all() and (weak[:, 1][outside[:, 1]] != 0).any()
    strong = batch["unlabeled"][:, :2]  # as nnU-Net has labeled patches after its intensity transforms
    assert (strong[:, 0][outside[:, 0]] == 0).all() and (strong[:, 0][~outside[:, 0]] != 0).any()


def _count_foreground(target):
    return {"voxels": (target > 0).flatten(1).sum(1), "shape": torch.tensor(target.shape)}


class _WithExtras(nnUNetTrainerSSL):
    def labeled_extras(self):
        return _count_foreground

    def terms(self, batch):
        self.seen = batch.extras, batch.target
        return self.labeled_terms(batch) | {"other": torch.zeros(())}

    def weights(self):
        return {"other": 1.0}


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_labeled_extras_come_from_the_target_at_full_resolution(datasets, tmp_path, deep_supervision):
    out, dataset = datasets()
    trainer = started(
        make_trainer(_WithExtras, out, dataset, results=tmp_path, enable_deep_supervision=deep_supervision)
    )
    trainer.train_step(next(trainer.dataloader_train))
    extras, target = trainer.seen
    target = target[0] if deep_supervision else target
    assert sorted(extras) == ["shape", "voxels"]
    assert torch.equal(extras["voxels"], (target > 0).flatten(1).sum(1))
    assert extras["shape"].tolist() == list(target.shape)
    assert "extra/voxels" not in next(trainer.dataloader_val)


class _WithViews(nnUNetTrainerSSL):
    """Two views of labeled patches, and patches of other unlabeled images in two views."""

    def unlabeled_views(self, intensity):
        self.asked = [*getattr(self, "asked", []), len(intensity)]
        return {"strong": intensity, "weak": []}

    def labeled_views(self, intensity):
        return {"weak": without_intensity(intensity), "strong": intensity}

    def further_unlabeled(self, intensity):
        return {"partner": {"strong": intensity, "weak": []}}

    def terms(self, batch):
        self.seen = batch
        return self.labeled_terms(batch) | {"other": torch.zeros(())}

    def weights(self):
        return {"other": 1.0}


@pytest.mark.parametrize("options", [{}, {"channels": 2, "mask_norm": True}], ids=str)
def test_views_of_labeled_patches_and_patches_of_other_images(options, datasets, tmp_path):
    trainer = started(make_trainer(_WithViews, *datasets(**options), results=tmp_path))
    assert trainer.asked == [len(nnunets_intensity(trainer))]  # once, and with nnU-Net's transforms
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    seen, channels = trainer.seen, options.get("channels", 1)
    weak, strong = seen.labeled_views["weak"], seen.labeled_views["strong"]
    assert seen.labeled is weak and weak.shape == strong.shape == (2, channels, 24, 24)
    assert seen.unlabeled is seen.views["strong"]
    partner = seen.further["partner"]
    assert partner.images is partner.views["strong"] and partner.images.shape == seen.unlabeled.shape
    assert partner.inside.shape == seen.inside.shape and len(partner.keys) == 2
    assert not torch.equal(partner.views["weak"], seen.views["weak"])
    # the target goes with both views: their geometry is one
    for first, second in ((weak, strong), (partner.views["weak"], partner.views["strong"])):
        pairs = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(first, second)]
        assert min(pairs) > 0.6 and not torch.equal(first, second)
    assert next(trainer.dataloader_val)["data"].shape[1] == channels
    trainer.set_unlabeled_cases([])
    batch = next(trainer.dataloader_train)
    assert not any(key.startswith(("unlabeled", "further")) for key in batch)


def nnunets_intensity(trainer):
    (stacked,) = (
        t for t in trainer.dataloader_train.data_loader.labeled.transforms.transforms if isinstance(t, StackedViews)
    )
    return stacked.views["strong"].transforms


def test_a_labeled_patch_and_its_target_fit_in_every_view(datasets, tmp_path):
    """Where the image is the label, so is every view."""
    trainer = started(make_trainer(_WithViews, *datasets(), results=tmp_path))
    loader = trainer.dataloader_train.data_loader.labeled
    image = torch.zeros(1, *loader.patch_size[1:])
    image[:, 10:20, 12:30] = 10
    np.random.seed(0), torch.manual_seed(0)
    out = loader.transforms(image=image, segmentation=image.clone().to(torch.int16) // 10)
    target = out["segmentation"][0] if isinstance(out["segmentation"], list) else out["segmentation"]
    weak = out["image"][:1]
    assert target.any() and ((weak > 5) == (target > 0)).float().mean() > 0.95


class _DecodesTwice(nnUNetTrainerSSL):
    def build_method(self):
        self.register_second_decoding(lambda features: [f * 0 for f in features])

    def unlabeled_terms(self, logits, batch):
        self.seen = logits, batch
        return {"same": (batch.perturbed[0] - logits[0]).square().mean()}

    def weights(self):
        return {"same": 1.0}


@pytest.mark.parametrize("options", [{}, {"residual": True}], ids=str)
def test_unlabeled_patches_are_decoded_twice_in_the_default_terms(options, datasets, tmp_path):
    trainer = started(make_trainer(_DecodesTwice, *datasets(**options), results=tmp_path, unlabeled_batch_size=3))
    passes = []
    trainer.network.encoder.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    batch = next(trainer.dataloader_train)
    values = trainer.train_step(batch)
    logits, seen = trainer.seen
    assert passes == [5] and values["same"] > 0
    assert [z.shape for z in seen.perturbed] == [z.shape for z in logits] and len(logits[0]) == 3
    assert torch.equal(seen.perturbed[0][0], seen.perturbed[0][1])  # nothing of the image is left in them
    assert len(seen.labeled_logits["student"][0]) == 2


def test_methods_that_mix_patches_refuse_a_single_one(datasets, tmp_path):
    trainer = make_trainer(MEAN_TEACHER, *datasets(), results=tmp_path, unlabeled_batch_size=1)
    trainer.initialize()
    with pytest.raises(UserError, match=r"each process has 1 of them in a step. Set unlabeled_batch_size = 2 or more"):
        refuse_single_patches(trainer)
    trainer.unlabeled_batch_size = 2
    refuse_single_patches(trainer)


def test_methods_that_mix_labeled_patches_refuse_a_single_one(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, batch_size=1)
    trainer = make_trainer("nnUNetTrainerCycleMix", out, dataset, results=tmp_path)
    with pytest.raises(
        UserError, match=r"mixes labeled patches .* has 1 of them in a step. Set batch_size = 2 or more"
    ):
        trainer.initialize()
