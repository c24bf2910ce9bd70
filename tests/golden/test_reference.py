"""What only golden adapters run, against numbers worked out by hand, PyTorch and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.reference.adversarial_masks import balanced_cross_entropy, rescaled
from tests.golden.reference.binary import binary_cross_entropy, foreground_dice_loss
from tests.golden.reference.boxes import rows_from_corners
from tests.golden.reference.consistency import softmax_dice
from tests.golden.reference.ctaugment import sampling_weights, transformed, updated_rates
from tests.golden.reference.fixmatch import (
    above,
    complementary_loss,
    label_of_masked,
    relative_range,
    spatial_certainty,
)
from tests.golden.reference.multiple_instance import bag_loss, bag_scores, pairwise_smoothness
from tests.golden.reference.stsr import (
    confident_labels,
    consistency_weight,
    perturbed_features,
    unlabeled_probability,
)
from tests.golden.reference.supervised import ce_dice_loss, cross_entropy, squared_dice_loss
from tests.golden.reference.tightness import projected_tightness
from tests.golden.reference.unimatch import adaptive_threshold, drawn_channels


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits `(1, C, 1, 1)` of one voxel with these class probabilities."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1)


def test_dice_between_predictions_by_hand():
    loss = softmax_dice(logits_of(0.5, 0.5), logits_of(0.9, 0.1))
    expected = ((1 - (2 * 0.45 + 1e-5) / (1.4 + 1e-5)) + (1 - (2 * 0.05 + 1e-5) / (0.6 + 1e-5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_dice_sums_over_the_whole_batch():
    student, teacher = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    as_one_image = [x.transpose(0, 1).reshape(1, 2, 12, 4) for x in (student, teacher)]
    torch.testing.assert_close(softmax_dice(student, teacher), softmax_dice(*as_one_image))


def test_squared_dice_by_hand():
    predicted = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).view(1, 2, 2, 1)  # two voxels, classes 0 and 1
    target = torch.tensor([0, 1]).view(1, 2, 1)
    background = 1 - (2 * 0.8 + 1e-5) / (0.64 + 0.16 + 1 + 1e-5)
    foreground = 1 - (2 * 0.6 + 1e-5) / (0.04 + 0.36 + 1 + 1e-5)
    assert squared_dice_loss(predicted, target).item() == pytest.approx((background + foreground) / 2, rel=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 6, 7), (2, 3, 4, 5, 6)])
def test_squared_dice_equals_monai(shape):
    monai_losses = pytest.importorskip("monai.losses")
    logits = draw(*shape)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1))
    monai = monai_losses.DiceLoss(
        to_onehot_y=True, softmax=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = squared_dice_loss(probabilities(logits), target)
    torch.testing.assert_close(ours, monai(logits, target.unsqueeze(1)))


def test_a_perfect_prediction_has_dice_loss_zero_also_for_absent_classes():
    target = torch.tensor([[0, 2], [2, 0]]).view(1, 2, 2)
    predicted = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    assert squared_dice_loss(predicted, target).item() == pytest.approx(0, abs=1e-6)


def test_cross_entropy_of_uniform_logits_is_the_log_of_the_number_of_classes():
    assert cross_entropy(torch.zeros(2, 5, 3, 3), torch.randint(0, 5, (2, 3, 3))).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.float32, torch.uint8])
def test_targets_of_any_number_type_with_or_without_a_channel_give_the_same(dtype):
    logits = draw(2, 3, 4, 4)
    target = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    expected = 0.5 * (cross_entropy(logits, target) + squared_dice_loss(probabilities(logits), target))
    assert torch.equal(ce_dice_loss(logits, target.to(dtype)), expected)
    assert torch.equal(ce_dice_loss(logits, target.to(dtype).unsqueeze(1)), expected)


def test_a_target_that_does_not_fit_is_refused():
    for loss in (cross_entropy, squared_dice_loss, ce_dice_loss):
        with pytest.raises(ValueError, match=r"must have shape \(2, 4, 4\).*got \(2, 4, 5\)"):
            loss(draw(2, 3, 4, 4), torch.zeros(2, 4, 5))


def test_supervised_reference_losses_by_hand():
    p, y = torch.tensor([[0.5, 0.5, 1.0]]), torch.tensor([[1, 0, 2]])
    expected = 1 - (2 * 0.5 + 1e-5) / (1.5 + 1 + 1e-5)
    assert foreground_dice_loss(p, y).item() == pytest.approx(expected, rel=1e-5)
    assert binary_cross_entropy(torch.zeros(1, 3), y).item() == pytest.approx(math.log(2), rel=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        foreground_dice_loss(p, y[0])


def test_rescaled_has_the_size_of_the_reference_and_the_direction_of_the_loss():
    x = torch.tensor(4.0, requires_grad=True)
    reference = torch.tensor(-6.0, requires_grad=True)
    loss = rescaled(x**2, reference)
    assert loss.item() == 6.0
    loss.backward()
    assert x.grad.item() == pytest.approx(6 / 16 * 8) and reference.grad is None


@pytest.mark.parametrize("spatial", [(2, 2), (2, 2, 1)])
def test_balanced_cross_entropy_by_hand(spatial):
    logits = torch.zeros(1, 3, 4)
    logits[0, 1] = math.log(2)  # probabilities 1/4, 1/2, 1/4
    target, annotated = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[True, True, True, False]]])
    shaped = (logits.reshape(1, 3, *spatial), *(x.reshape(1, 1, *spatial) for x in (target, annotated)))
    # n / n_c: 3 for class 0, 3/2 for class 1; class 2 is not annotated. The mean goes over 4 voxels
    expected = (3 * math.log(4) + 2 * 1.5 * math.log(2)) / 4
    assert balanced_cross_entropy(*shaped).item() == pytest.approx(expected, rel=1e-6)
    ignored = torch.where(shaped[2], shaped[1], 3)  # an ignore label beyond the classes
    assert balanced_cross_entropy(shaped[0], ignored, shaped[2]).item() == pytest.approx(expected, rel=1e-6)
    assert balanced_cross_entropy(shaped[0], ignored, ~shaped[2] & shaped[2]).item() == 0


def test_corners_of_other_orders():
    rows = rows_from_corners(torch.tensor([[1, 0, 4, 2, 9, 7]]))
    assert rows.tolist() == [[1, 0, 2, 4, 8, 10]]


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


def test_schedules_of_the_stsr_winner_by_hand():
    run = (100, 10)  # epochs, iterations
    assert consistency_weight(0, run, 0.2, 50.0) == pytest.approx(50 * math.exp(-5))
    assert consistency_weight(100, run, 0.2, 50.0) == pytest.approx(50 * math.exp(-1.25))
    assert consistency_weight(200, run, 0.2, 50.0) == consistency_weight(999, run, 0.2, 50.0) == 50
    assert unlabeled_probability(9, run, 0.1, 0.5) == pytest.approx(0.1)
    assert unlabeled_probability(100, run, 0.1, 0.5) == pytest.approx(0.2)
    assert unlabeled_probability(999, run, 0.1, 0.5) == 0.5


def test_features_of_the_stsr_winner_lose_channels_and_the_voxels_with_most_attention():
    features = torch.tensor([[[4.0, 1.0], [2.0, 1.0]]])  # one sample, two channels, two voxels: attention 3 and 1
    kept = torch.tensor([[True, False]])
    found = perturbed_features(features, kept, 0.5, 0.6, torch.tensor([[0.1, 0.2], [0.3, 0.3]]))
    torch.testing.assert_close(found, torch.tensor([[[0.0, 2 * 1.0 * 1.2], [0.0, 0.0]]]))


def test_labels_of_the_stsr_winner_are_background_where_unsure():
    logits = torch.cat((logits_of(0.1, 0.9), logits_of(0.4, 0.6)))
    assert confident_labels(logits, 0.75).flatten().tolist() == [1, 0]


def test_the_least_probable_class_takes_the_complement_for_logits():
    p = torch.tensor([0.7, 0.2, 0.1]).view(1, 3, 1, 1)
    expected = math.log(math.exp(0.3) + math.exp(0.8) + math.exp(0.9)) - 0.9
    assert complementary_loss(p, p, torch.tensor(2.0)).item() == pytest.approx(2 * expected, rel=1e-5)


def test_the_range_of_probabilities_passes_nearly_everywhere():
    p = torch.tensor([0.4, 0.35, 0.25]).view(1, 3, 1, 1)
    found = relative_range(p)
    assert found.flatten().tolist() == pytest.approx([0.375, 0.25, 0], abs=1e-6)
    assert label_of_masked(p, above(found, 0.8)).item() == 0  # nothing above: background


def test_spatial_certainty_of_even_and_of_single_voxels():
    even = torch.full((1, 2, 2, 2), 0.5)
    assert spatial_certainty(even).item() == pytest.approx(0, abs=1e-6)
    single = torch.full((1, 1, 2, 2), 1e-12)
    single[..., 0, 0] = 1
    assert spatial_certainty(single).item() == pytest.approx(1, abs=1e-6)


def test_rates_of_ctaugment_by_hand():
    rates = updated_rates(4, [0.3, 0.3, 0.99], [0.5, 1.0, 0.0], decay=0.9)
    assert rates.tolist() == pytest.approx([1, 0.9 * 0.95 + 0.1, 1, 0.9])
    weights = sampling_weights(np.array([[1.0, 0.5, 0.9]]), 0.85)
    assert weights[0].tolist() == pytest.approx([1, 0, 0.91 / 1.01])


def test_operations_of_ctaugment_at_their_neutral_levels():
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        assert np.array_equal(transformed(image, name, 0.5), image)
    assert np.array_equal(transformed(image, "invert", 1.0), 255 - image)
    assert np.array_equal(transformed(image, "solarize", 0.1), np.where(image < 25, image, 255 - image))


def test_the_adaptive_threshold_by_hand():
    p = torch.tensor([[0.9, 0.6, 0.3], [0.1, 0.4, 0.7]]).view(1, 2, 3, 1)
    image = torch.ones(1, 3, 1, dtype=torch.bool)
    assert adaptive_threshold(0.5, [p, p], image, 0.75) == pytest.approx([0.375 + 0.2, 0.75 * 0.575 + 0.2])
    image[0, 0] = False
    assert adaptive_threshold(0.5, [p], image, 0.75) == pytest.approx([0.375 + 0.25 * (0.6 + 0.7) / 2])
    assert adaptive_threshold(0.5, [p], torch.zeros_like(image), 0.75) == [0.5]


def test_what_was_drawn_is_read_from_complementary_masks():
    masks = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
    chosen, kept = drawn_channels(masks)
    assert chosen.tolist() == [[True, False], [False, False]] and kept.tolist() == [False, True]
