"""Labels, choice and contrast of feature cells, and the consistency weighted by uncertainty: numbers by hand."""

import math

import pytest
import torch

from nnunet_ssl.losses.cell_contrast import cell_labels, choose_cells, focal_contrast, hard_negatives, unit_embeddings
from nnunet_ssl.ramps import geometric_ramp


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize("grid", [(2, 3), (2, 3, 2)])
def test_embeddings_have_length_one_and_the_order_of_the_grid(grid):
    features = draw(2, 5, *grid).half()
    embeddings = unit_embeddings(features)
    assert embeddings.shape == (2, math.prod(grid), 5)
    assert embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(2, math.prod(grid)))
    last = features[1, :, -1, -1] if len(grid) == 2 else features[1, :, -1, -1, -1]
    assert torch.allclose(embeddings[1, -1], last.float() / last.float().norm())


def test_a_cell_has_the_class_of_most_voxels_around_its_center():
    # cells of 2 x 2 voxels; 4 voxels vote
    target = torch.tensor([[[[0, 0, 2, 2], [0, 1, 2, 1], [1, 1, 0, 2], [1, 2, 2, 0]]]])
    assert cell_labels(target, 3, (2, 2)).tolist() == [[0, 2, 1, 0]]  # the last one is a tie: the lower class


def test_cells_of_eight_voxels_take_the_middle_ones_and_axes_may_differ():
    target = torch.zeros(1, 1, 8, 4, dtype=torch.int16)
    target[0, 0, 3:5, 1:3] = 1  # all four voxels around the center of the one cell
    assert cell_labels(target, 2, (8, 4)).tolist() == [[1]]
    target[0, 0, 3:5, 1] = 0  # two of four: background
    assert cell_labels(target, 2, (8, 4)).tolist() == [[0]]
    assert cell_labels(target, 2, (4, 2)).shape == (1, 4)
    assert cell_labels(torch.ones(2, 1, 4, 4, 8), 2, (2, 2, 4)).tolist() == 2 * [8 * [1]]


def test_cells_outside_the_mask_have_no_label():
    target = torch.ones(1, 1, 2, 4)
    mask = torch.tensor([[[[True, True, False, False], [True, False, True, False]]]])
    assert cell_labels(target, 2, (2, 2), mask=mask).tolist() == [[1, -1]]
    regions = torch.ones(1, 2, 2, 4)
    assert cell_labels(regions, 2, (2, 2), "sigmoid", mask).tolist() == [[3, -1]]


def test_cells_are_alike_if_they_lie_in_the_same_regions():
    outer = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]])
    inner = torch.tensor([[0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0, 0]])
    assert cell_labels(torch.stack((outer, inner))[None], 2, (2, 2), "sigmoid").tolist() == [[1, 3, 0]]


def test_a_choice_of_cells():
    assert choose_cells(4, 9, torch.device("cpu")).tolist() == [0, 1, 2, 3]
    chosen = choose_cells(100, 30, torch.device("cpu"), torch.Generator().manual_seed(0)).tolist()
    assert len(set(chosen)) == 30 and max(chosen) < 100
    assert chosen != choose_cells(100, 30, torch.device("cpu"), torch.Generator().manual_seed(1)).tolist()


# ------------------------------------------------------------------------------------------------------------ contrast


def three_cells():
    """Cells 0 and 1 of one label, 2 of another; similarities 0.6 (0, 1), 0.8 (0, 2) and 0 (1, 2)."""
    return torch.tensor([[[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, 0, 1]])


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_contrast_by_hand(gamma):
    embeddings, labels = three_cells()
    first = math.exp(1.2) / (math.exp(1.2) + math.exp(1.6))  # temperature 0.5
    second = math.exp(1.2) / (math.exp(1.2) + 1)
    # the third cell has no partner: 0
    expected = sum(-((1 - q) ** gamma) * math.log(q) for q in (first, second)) / 3
    assert focal_contrast(embeddings, labels, 0.5, gamma).item() == pytest.approx(expected, rel=1e-5)
    weights = torch.tensor([[2.0, 0.0, 5.0]])
    expected = -2 * (1 - first) ** gamma * math.log(first) / 3
    assert focal_contrast(embeddings, labels, 0.5, gamma, weights).item() == pytest.approx(expected, rel=1e-5)


def test_the_maximum_of_the_column_does_not_cancel():
    embeddings, labels = three_cells()
    # column maxima: 1.6, 1.2, 1.6; the diagonal is 0 and does not win
    first = math.exp(1.2 - 1.2) / (math.exp(1.2 - 1.2) + math.exp(1.6 - 1.6))
    second = math.exp(1.2 - 1.6) / (math.exp(1.2 - 1.6) + math.exp(-1.6))
    expected = -(math.log(first) + math.log(second)) / 3
    found = focal_contrast(embeddings, labels, 0.5, 0.0, column_shift=True).item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(focal_contrast(embeddings, labels, 0.5, 0.0).item(), rel=1e-2)


def test_hard_negatives_by_hand():
    embeddings, labels = three_cells()
    teacher = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]])
    # student 0, 1 with teacher 2: 1.0, 0.6; student 2 with teacher 0, 1: 1.0, 0
    expected = -(2 * math.log(1e-6) + math.log(0.4)) / 3
    assert hard_negatives(embeddings, teacher, labels, 0.5).item() == pytest.approx(expected, rel=1e-4)
    small = hard_negatives(0.9 * embeddings, teacher, labels, 0.7).item()
    assert small == pytest.approx(-math.log(0.1), rel=1e-5)  # 0.54 is below the threshold, twice 0.9 above


def test_nothing_to_push_or_draw_is_zero_with_a_gradient_of_zero():
    embeddings = unit_embeddings(draw(2, 4, 3, 2)).requires_grad_()
    one_class, all_out = torch.zeros(2, 6, dtype=torch.int64), torch.full((2, 6), -1)
    for labels in (one_class, all_out):
        for loss in (focal_contrast(embeddings, labels), hard_negatives(embeddings, embeddings, labels, 0.3)):
            (gradient,) = torch.autograd.grad(loss, embeddings)
            assert loss.item() == pytest.approx(0, abs=1e-6)
            assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e-6


def test_cells_without_a_label_have_no_influence():
    embeddings = unit_embeddings(draw(1, 4, 6, 1))
    labels = torch.tensor([[0, 1, 0, 1, 2, -1]])
    with_all, without = embeddings, embeddings[:, :5]
    for loss in (focal_contrast, lambda z, y: hard_negatives(z, z.flip(2), y, 0.0)):
        assert loss(with_all, labels).item() == pytest.approx(loss(without, labels[:, :5]).item(), rel=1e-5)


def test_contrast_draws_alike_together_and_is_not_taken_in_half_precision():
    features = draw(2, 8, 10, 1).requires_grad_()
    labels = torch.arange(10).remainder(3).expand(2, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = focal_contrast(unit_embeddings(features), labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(focal_contrast(unit_embeddings(features), labels).item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, features)
    assert focal_contrast(unit_embeddings(features - gradient), labels) < loss


def test_what_does_not_fit_is_refused():
    embeddings, labels = three_cells()
    with pytest.raises(ValueError, match="do not fit"):
        focal_contrast(embeddings, labels[:, :2])
    with pytest.raises(ValueError, match="do not fit"):
        hard_negatives(embeddings, embeddings[..., :1], labels, 0.3)
    with pytest.raises(ValueError, match="2 channels does not fit 3"):
        cell_labels(torch.zeros(1, 2, 4, 4), 3, (2, 2), "sigmoid")
    with pytest.raises(ValueError, match="gamma must be 0 or at least 1"):
        focal_contrast(embeddings, labels, gamma=0.5)


# ---------------------------------------------------------------------------------------------- uncertainty and ramp


def test_geometric_ramp():
    assert [geometric_ramp(t, 5, 0.5) for t in (0, 1, 2)] == pytest.approx([5, 0.5, 0.5])
    assert geometric_ramp(0.5, 4, 1) == pytest.approx(2)
