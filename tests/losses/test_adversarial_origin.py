"""Losses between a network and a discriminator of labeled and unlabeled images."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.adversarial_origin import origin_loss, origins, passing_loss


def test_labeled_images_come_first_and_numbers_need_not_be_equal():
    assert origins(2, 3).tolist() == [1, 1, 0, 0, 0]


def test_the_discriminators_loss_by_hand():
    # the first image is taken for a labeled one with 3/4, the others for unlabeled ones with 1/4 and 1/2
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [0.0, 0.0]])
    expected = (math.log(4 / 3) + math.log(4) + math.log(2)) / 3
    assert origin_loss(logits, 1).item() == pytest.approx(expected)


def test_the_networks_loss_asks_for_the_class_of_labeled_images():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], requires_grad=True)
    loss = passing_loss(logits)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert (torch.autograd.grad(loss, logits)[0][:, 1] < 0).all()
