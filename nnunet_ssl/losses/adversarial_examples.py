"""Images changed in the direction in which a network's loss grows fastest.

Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015 (the fast gradient sign method).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.cross_pseudo import pseudo_cross_entropy
from nnunet_ssl.networks.gradients import fixed
from nnunet_ssl.predictions.hard_labels import hard_labels


def against_own_decision(network: nn.Module, images: Tensor, step: float, activation: str = "softmax") -> Tensor:
    """`x + step sign(d CE(f(x), y) / dx)`, y the hard decision of f for x: images for which f is less sure of it.

    A forward and a backward pass of the network, which change no gradient of its parameters.

    Args:
        network: f, neither compiled nor wrapped for several GPUs: these count backward passes. It gives logits `(B, C,
            *spatial)`, or a list of them with the highest resolution first.
        images: x, `(B, channels, *spatial)`; not changed.
        step: largest change of an intensity, in units of the images.
        activation: "softmax", or "sigmoid" for regions.

    Returns:
        images of the same shape, without a gradient.
    """
    with fixed(network.parameters()):
        inputs = images.detach().clone().requires_grad_()
        output = network(inputs)
        logits = output if isinstance(output, Tensor) else output[0]
        loss = pseudo_cross_entropy(logits, hard_labels(logits.detach(), activation), activation)
        (gradient,) = torch.autograd.grad(loss * logits.numel(), inputs)  # a sum: a mean underflows in half precision
    torch.clear_autocast_cache()  # weights that autocast has cast here have no gradient
    return images + step * gradient.sign()
