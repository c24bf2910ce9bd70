"""Least-squares adversarial losses between predicted and real masks.

Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017, with the targets 1 (real) and -1 (predicted) of Valvano,
Leo, Tsaftaris, "Learning to Segment from Scribbles using Multi-scale Adversarial Attention Gates", IEEE TMI 2021,
arXiv:2007.01152. Official code: gvalvano/multiscale-adversarial-attention-gates (`experiments/acdc/model.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32


def least_squares_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """`0.5 mean (D(real) - 1)^2 + 0.5 mean (D(fake) + 1)^2` of a discriminator's outputs, any shape."""
    return 0.5 * (in_float32(real) - 1).square().mean() + 0.5 * (in_float32(fake) + 1).square().mean()


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """`0.5 mean (D(fake) - 1)^2`: predictions that look like real masks."""
    return 0.5 * (in_float32(fake) - 1).square().mean()


def flip_signs(output: Tensor, probability: float) -> Tensor:
    """The discriminator's outputs of a whole batch, with this probability all of the opposite sign; gradients as without.

    The label noise of the official code (`label_noise_layer`), 0.1 while training.
    """
    flipped = torch.rand((), device=output.device) < probability
    return output - torch.where(flipped, 2 * output.detach(), 0)
