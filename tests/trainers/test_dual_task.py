"""Signed distance maps, level sets and their losses, against numbers worked out by hand."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from nnunet_ssl.losses.dual_task import dual_task_consistency, level_set_mse, level_set_to_mask
from nnunet_ssl.networks.features import FeatureTap, LevelSetHead, last_encoder_stage, segmentation_layer
from nnunet_ssl.patches.distance_maps import LevelSetTargets, has_boundary, signed_distance_map, signed_distance_maps
from tests.golden.reference.binary import binary_cross_entropy, foreground_dice_loss
from tests.helpers.training import make_trainer, started


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ------------------------------------------------------------------------------------------------------- distance maps


def test_map_of_a_bar_by_hand():
    # outside at distance 1, 2 of at most 2; the ends of the bar are boundary, its middle is at distance 2 of at most 2
    mask = np.array([[0, 0, 1, 1, 1, 0, 0]])
    assert signed_distance_map(mask).tolist() == [[1, 0.5, 0, -1, 0, 0.5, 1]]
    assert signed_distance_map(mask[0][:, None, None])[:, 0, 0].tolist() == [1, 0.5, 0, -1, 0, 0.5, 1]


def test_the_border_of_the_patch_is_no_boundary():
    assert signed_distance_map(np.array([[1, 1, 1, 0, 0]])).tolist() == [pytest.approx([-1, -2 / 3, 0, 0.5, 1])]


def test_a_diagonal_neighbor_outside_is_no_boundary():
    mask = np.ones((3, 3))
    mask[0, 0] = 0
    phi = signed_distance_map(mask)
    assert phi[0, 1] == phi[1, 0] == 0 and phi[0, 0] == 1
    assert phi[1, 1] == pytest.approx(-math.sqrt(2) / math.sqrt(8))


def test_absent_and_full_objects_have_a_map_of_zeros_and_no_boundary():
    masks = torch.zeros(1, 3, 4, 5)
    masks[:, 1] = 1
    masks[:, 2, 1, 1] = 1
    maps = signed_distance_maps(masks)
    assert maps.dtype == torch.float32 and torch.isfinite(maps).all()
    assert maps[:, :2].abs().max() == 0
    assert has_boundary(maps).flatten().tolist() == [False, False, True]
    assert has_boundary(maps).shape == (1, 3, 1, 1)


def test_spacing_stretches_distances():
    mask = np.zeros((3, 3))
    mask[0, 0] = 1
    phi = signed_distance_map(mask, spacing=(1, 3))
    assert phi[2, 0] / phi[0, 2] == pytest.approx(2 / 6)


@pytest.mark.parametrize("spatial", [(6, 5), (6, 5, 4)])
def test_targets_of_labels_of_regions_and_with_ignored_voxels(spatial):
    target = torch.randint(0, 4, (2, 1, *spatial), generator=torch.Generator().manual_seed(0)).short()
    make = pickle.loads(
        pickle.dumps(LevelSetTargets(2, regions=False))
    )  # the workers get a copy; 3 is the ignore label
    maps = make(target)["level_set"]
    assert maps.shape == (2, 2, *spatial)
    for k in range(2):
        np.testing.assert_array_equal(maps[1, k], signed_distance_map(target[1, 0] == k + 1))
    regions = torch.cat((target > 0, target == 2, target == 3), dim=1)  # the last one says what is ignored
    maps = LevelSetTargets(2, regions=True)(regions)["level_set"]
    assert maps.shape == (2, 2, *spatial)
    np.testing.assert_array_equal(maps[0, 0], signed_distance_map(target[0, 0] > 0))


# -------------------------------------------------------------------------------------------------------------- losses


def test_a_level_set_becomes_a_mask_that_is_one_inside():
    mask = level_set_to_mask(torch.tensor([-1.0, 0.0, 1.0, math.log(3) / 1500]))
    assert mask.tolist() == pytest.approx([1, 0.5, 0, 0.25], abs=1e-6)
    assert level_set_to_mask(torch.full((1,), 60.0).half()).dtype == torch.float32


def test_consistency_by_hand_for_a_region_and_for_classes():
    level_set = torch.zeros(1, 1, 1, 1)
    logit = torch.full((1, 1, 1, 1), math.log(9.0))
    assert dual_task_consistency(level_set, logit, "sigmoid").item() == pytest.approx(0.4**2, rel=1e-5)
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1)
    both = torch.tensor([-1.0, 0.0]).view(1, 2, 1, 1)
    assert dual_task_consistency(both, logits).item() == pytest.approx((0.7**2 + 0.3**2) / 2, rel=1e-5)


@pytest.mark.parametrize("activation, classes", [("softmax", 4), ("sigmoid", 3)])
@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_both_heads_get_the_gradient_of_the_value(activation, classes, spatial):
    level_set = (0.01 * draw(2, 3, *spatial, dtype=torch.float64)).requires_grad_()
    logits = draw(2, classes, *spatial, seed=1, dtype=torch.float64).requires_grad_()
    mask = draw(2, 1, *spatial, seed=2) > 0
    assert gradcheck(lambda z, s: dual_task_consistency(z, s, activation, -20.0, mask), (level_set, logits))
    maps = draw(2, 3, *spatial, seed=3, dtype=torch.float64)
    assert gradcheck(lambda z: level_set_mse(z, maps, mask), (level_set,))


def test_masks_say_what_counts_even_where_the_rest_is_not_finite():
    z, maps = torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)
    maps[0, 0], maps[0, 1] = 0.5, float("nan")
    mask = torch.zeros(2, 2, 1, 1, dtype=torch.bool)
    assert level_set_mse(z, maps, mask).item() == 0
    mask[0, 0] = True
    assert level_set_mse(z, maps, mask).item() == pytest.approx(0.25)
    everything = level_set_mse(z[:, :1], maps[:, :1])
    assert everything.item() == pytest.approx(0.125)


def test_what_does_not_fit_is_an_error():
    z = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match="one shape"):
        level_set_mse(z, z[:, :1])
    with pytest.raises(ValueError, match="shape of the objects"):
        dual_task_consistency(z, torch.zeros(1, 2, 3, 3), "softmax")
    with pytest.raises(ValueError, match="bool and broadcast"):
        level_set_mse(z, z, torch.ones(1, 2, 3, 3))
    with pytest.raises(ValueError, match="bool and broadcast"):
        level_set_mse(z, z, torch.ones(5, 2, 3, 3, dtype=torch.bool))


def test_supervised_reference_losses_by_hand():
    p, y = torch.tensor([[0.5, 0.5, 1.0]]), torch.tensor([[1, 0, 2]])
    expected = 1 - (2 * 0.5 + 1e-5) / (1.5 + 1 + 1e-5)
    assert foreground_dice_loss(p, y).item() == pytest.approx(expected, rel=1e-5)
    assert binary_cross_entropy(torch.zeros(1, 3), y).item() == pytest.approx(math.log(2), rel=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        foreground_dice_loss(p, y[0])


# ------------------------------------------------------------------------------------------------------------ features


def test_a_tap_keeps_the_features_of_the_latest_training_forward_once():
    layer = nn.Conv2d(2, 3, 1)
    before, after = FeatureTap(layer, "input"), FeatureTap(layer, "output")
    x = draw(1, 2, 4, 4).requires_grad_()
    y = layer(x)
    assert before.take() is x and after.take() is y
    with pytest.raises(RuntimeError, match="since the features were last taken"):
        before.take()
    layer.eval()(x)
    with pytest.raises(RuntimeError):
        after.take()
    with pytest.raises(ValueError, match="'input' or 'output'"):
        FeatureTap(layer, "both")
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("convolution, spatial", [(nn.Conv2d, (4, 4)), (nn.Conv3d, (4, 4, 2))])
def test_the_head_has_one_bounded_channel_per_object(convolution, spatial):
    head = LevelSetHead(convolution(5, 3, 1), 2)
    level_set = head(10 * draw(2, 5, *spatial))
    assert level_set.shape == (2, 2, *spatial)
    assert level_set.abs().max() <= 1


def test_a_network_of_another_build_is_refused():
    with pytest.raises(NotImplementedError, match=r"Conv2d has no `decoder\.seg_layers`"):
        segmentation_layer(nn.Conv2d(1, 1, 1))
    with pytest.raises(NotImplementedError, match=r"encoder\.stages"):
        last_encoder_stage(nn.Conv2d(1, 1, 1))


# --------------------------------------------------------------------------------------------------------- the trainer


def test_the_step_is_the_one_put_together_by_hand(datasets, tmp_path):
    out, dataset = datasets(ignore=True)  # label 3
    trainer = started(make_trainer("nnUNetTrainerDTC", out, dataset, results=tmp_path, unlabeled_batch_size=3))
    batch = next(trainer.dataloader_train)
    batch["inside"][0, :, :, :5] = False
    features = []
    layer = trainer.student.module.decoder.seg_layers[-1]
    handle = layer.register_forward_hook(lambda _, inputs, __: features.append(inputs[0]))
    with torch.no_grad():
        scales = trainer.student(torch.cat((batch["data"], batch["unlabeled"])))
        z = trainer.level_set.module[0](features[0]).tanh()
        supervised = trainer.loss([scale[:2] for scale in scales], batch["target"])
    handle.remove()
    target = batch["target"][0][:, 0]
    errors = []
    for i, of_sample in enumerate(target):
        for k in (1, 2):
            mask = (of_sample == k).numpy()
            if mask.any() and not mask.all():
                error = (z[i, k - 1] - torch.from_numpy(signed_distance_map(mask))) ** 2
                errors.append(error[of_sample != 3])
    sdf = torch.cat(errors).mean().item()
    differences = ((-1500 * z).sigmoid() - scales[0].softmax(1)[:, 1:]) ** 2
    counted = torch.cat((torch.ones_like(target, dtype=torch.bool), batch["inside"][:, 0]))
    consistency = differences.movedim(1, -1)[counted].mean().item()
    found = trainer.train_step(batch)
    assert found["labeled"] == pytest.approx(supervised.item(), rel=1e-4)
    assert found["sdf"] == pytest.approx(sdf, rel=1e-4)
    assert found["consistency"] == pytest.approx(consistency, rel=1e-3)
    assert found["loss"] == pytest.approx(supervised.item() + 0.3 * sdf + math.exp(-5) * consistency, rel=1e-4)
