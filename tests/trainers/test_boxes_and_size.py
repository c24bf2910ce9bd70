"""Boxes, their strips, size bounds, bags, and the trainers that use them."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.dataloading.augmentation import spatial_changed
from nnunet_ssl.errors import UserError
from tests.golden.reference.boxes import rows_from_corners
from tests.golden.reference.multiple_instance import bag_loss, bag_scores, pairwise_smoothness
from tests.golden.reference.tightness import projected_tightness
from tests.helpers.training import copy_batch, make_trainer, started

# ------------------------------------------------------------------------------------------------------ boxes, strips


def test_corners_of_other_orders():
    rows = rows_from_corners(torch.tensor([[1, 0, 4, 2, 9, 7]]))
    assert rows.tolist() == [[1, 0, 2, 4, 8, 10]]


# ------------------------------------------------------------------------------------- boxes of an augmented patch


# -------------------------------------------------------------------------------------------------------------- losses


def test_projections_by_hand():
    mask = torch.zeros(2, 4, 4, 4)
    mask[:, 1:3, 1:3, 1:3] = 1
    p = torch.zeros_like(mask)
    assert float(projected_tightness(p, mask, width=2)) == pytest.approx(2 * 3 * 2 * 2)
    p[:, 1, 1, 1] = 1  # each projection has one pixel in one of its two strips of two lines
    assert float(projected_tightness(p, mask, width=2)) == pytest.approx(2 * 3 * 2 * 1)
    assert float(projected_tightness(mask, mask, width=1)) == 0


def test_bags_by_hand():
    p = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
    assert bag_scores(p, 0).tolist() == pytest.approx([0.4, 0.8])
    assert bag_scores(p, 1, "gm", 2).tolist() == pytest.approx([math.sqrt(0.34), math.sqrt(0.26)])
    a = math.exp(0.2 * 4), math.exp(0.8 * 4)
    assert float(bag_scores(p, 1, "expsumr", 4)[0]) == pytest.approx((0.2 * a[0] + 0.8 * a[1]) / sum(a))
    assert float(bag_scores(p, 1, "explogs", 4)[0]) == pytest.approx(math.log(sum(a) / 2) / 4)
    weights = torch.tensor([[1, 0], [1, 1]])
    for kind in ("max", "gm", "expsumr", "explogs"):
        assert float(bag_scores(p, 1, kind, weights=weights)[0]) == pytest.approx(0.2, rel=1e-5)
    with pytest.raises(ValueError, match="'explogs'"):
        bag_scores(p, 1, "mean")

    image, box = p[None, None], rows_from_corners(torch.tensor([[0, 0, 0, 0, 1, 0]]))  # the first row
    positive = [-math.log(0.2), -math.log(0.8), -math.log(0.8)]
    negative = [0.0, -math.log(0.4), -math.log(0.6), -math.log(0.4)]
    assert float(bag_loss(image, box)) == pytest.approx((sum(positive) + sum(negative)) / 7, rel=1e-5)
    assert float(bag_loss(image, box, "balance")) == pytest.approx(sum(positive) / 6 + sum(negative) / 8, rel=1e-5)
    focal = sum(0.25 * (1 - math.exp(-x)) ** 2 * x for x in positive)
    focal += sum(0.75 * q**2 * -math.log(1 - q) for q in (0.4, 0.6))
    assert float(bag_loss(image, box, "focal")) == pytest.approx(focal / 3, rel=1e-5)
    # the first row has no pixel outside the box: no smooth maximum, no bag
    smooth = bag_loss(image, box, "all", "gm", 1.0)
    negative = [-math.log(0.5), -math.log(0.6), -math.log(0.4)]
    assert float(smooth) == pytest.approx(
        (-math.log(0.5) - math.log(0.2) - math.log(0.8) + sum(negative)) / 6, rel=1e-5
    )
    without = bag_loss(image, box[:0])
    assert float(without) == pytest.approx(-(2 * math.log(0.2) + math.log(0.6) + math.log(0.4)) / 4, rel=1e-5)


@pytest.mark.parametrize("d", [2, 3])
def test_pairwise_smoothness_of_one_voxel(d):
    p = torch.zeros(1, 1, *(5,) * d)
    p[(0, 0, *(2,) * d)] = 1
    neighbors = 3**d - 1
    assert float(pairwise_smoothness(p)) == pytest.approx(2 / 5**d)  # the voxel differs from all, and all from it
    only_it = pairwise_smoothness(p, p)
    assert float(only_it) == pytest.approx(1)
    corner = torch.zeros_like(p)
    corner[(0, 0, *(0,) * d)] = 1  # beyond the edge is 0 too
    inside = 2**d - 1
    assert float(pairwise_smoothness(corner)) == pytest.approx((neighbors + inside) / neighbors / 5**d)


# ---------------------------------------------------------------------------------------------------- size_bounds


# ---------------------------------------------------------------------------------------------------------- trainers


def test_the_size_trainer_uses_upper_bounds_everywhere_and_lower_ones_where_annotated(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    trainer = started(make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path, penalty="quadratic"))
    assert trainer.channels == [1, 2] and not trainer.use_lower_bounds  # patches are smaller than images
    trainer.bounds = torch.tensor([[1000.0, 2000.0], [3000.0, 4000.0]])
    batch = next(trainer.dataloader_train)
    labels = batch["target"][0]
    labels[labels == 2] = 3
    labels[0, 0, 0, 0], labels[1][labels[1] == 1] = 1, 3  # organ annotated in the first patch only, lesion nowhere
    assert trainer.train_step(copy_batch(batch))["size"] == 0
    trainer.use_lower_bounds = True
    seen = {}
    trainer.student.module.register_forward_hook(lambda module, inputs, outputs: seen.update(logits=outputs[0]))
    values = trainer.train_step(copy_batch(batch))
    sizes = (seen["logits"].detach().softmax(1) * batch["labeled_inside"])[0, 1].sum()
    expected = (1000 - float(sizes)) ** 2 / 4 / (24 * 24)  # mean over two patches and two classes
    assert values["size"] == pytest.approx(expected, rel=1e-4)
    trainer.absent_unless_annotated = True
    values = trainer.train_step(copy_batch(batch))
    p = seen["logits"].detach().softmax(1) * batch["labeled_inside"]
    sizes = p.flatten(2).sum(2)
    expected = (1000 - sizes[0, 1]) ** 2 + sizes[1, 1] ** 2 + (sizes[:, 2] ** 2).sum()
    assert values["size"] == pytest.approx(float(expected) / 4 / (24 * 24), rel=1e-4)


def test_the_size_trainer_asks_for_bounds_and_for_a_known_penalty(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    with pytest.raises(UserError, match=r"size_bounds.*dataset.json"):
        make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path).initialize()
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    with pytest.raises(ValueError, match="'log_barrier' or 'quadratic'"):
        make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path, penalty="l1").initialize()


def spatial_of(trainer):
    transforms = trainer.dataloader_train.data_loader.transforms.transforms
    return next(t for t in transforms if type(t).__name__ == "SpatialTransform")


def test_augmentation_keeps_what_the_bounds_are_about(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    of_sizes = spatial_of(started(make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path / "a")))
    assert (of_sizes.p_scaling, of_sizes.p_rotation) == (0, 0.2)
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    of_boxes = spatial_of(started(make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path / "b")))
    assert (of_boxes.p_scaling, of_boxes.p_rotation) == (0.2, 0)
    with pytest.raises(ValueError, match="no setting 'rotation_probability'"):
        spatial_changed([of_boxes], rotation_probability=0)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_boxes_of_augmented_patches_are_the_boxes_of_their_labels(configuration, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    trainer = started(make_trainer("nnUNetTrainerBoxTightness", out, dataset, configuration, results=tmp_path))
    boxes = strips = 0
    for _ in range(12):
        batch = next(trainer.dataloader_train)
        labels = batch["target"][0]
        for item, channel, *box in batch["extra/boxes"].tolist():
            d = len(box) // 2
            inside = labels[(item, 0, *(slice(a, b) for a, b in zip(box[:d], box[d:])))]
            assert channel == 1 and (inside == 1).any()
            # scaled labels may lose a voxel at the corners of a box
            assert (inside != 0).sum() >= inside.numel() - 2**d
            boxes += 1
        assert len(batch["extra/strips"]) == len(batch["extra/bounds"])
        strips += len(batch["extra/strips"])
    assert boxes > 0 and strips > boxes


def test_boxes_whose_class_nobody_knows_are_refused(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    trainer = make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path)
    trainer.initialize()
    without_seeds = {"class_locations": {1: [], 2: []}}

    class NoSeeds:
        def __init__(self, folder, cases):
            pass

        def load_case(self, case):
            return None, None, None, without_seeds

    found = trainer.dataset_class
    trainer.on_train_start()
    trainer.dataset_class = NoSeeds
    with pytest.raises(UserError, match="nothing says which class a box is of"):
        trainer._refuse_boxes_of_unknown_class()
    trainer.dataset_class = found
    with pytest.raises(NotImplementedError, match="would look like a box"):
        make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path, padding="ignore").initialize()
