"""Perturbations and losses of yassouali/CCT that no trainer has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def guided_mask(features: Tensor, logits: Tensor, keep_foreground: bool) -> Tensor:
    """Features where the main decoder predicts foreground (context masking), or where it predicts background (object masking).

    Args:
        features: `(B, F, *spatial)`.
        logits: of the main decoder, `(B, C, *spatial)`.
    """
    foreground = logits.argmax(1, keepdim=True) > 0
    return features * (foreground if keep_foreground else ~foreground)


def unit_vectors(x: Tensor) -> Tensor:
    """Each sample divided by its norm over all channels and positions, plus 1e-8."""
    norm = x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
    return x / (norm + 1e-8)


def adversarial_direction(
    decode: Callable[[Tensor], Tensor], features: Tensor, start: Tensor, xi: float, eps: float, iterations: int
) -> Tensor:
    """The perturbation of virtual adversarial training (Miyato et al., TPAMI 2018): power steps from a random start.

    Args:
        decode: from features `(B, F, *spatial)` to logits `(B, C, *spatial)`.
        start: first direction, of the features' shape.
        xi: length of the probe; eps: of the perturbation.
    """
    target, direction = torch.softmax(decode(features), 1).detach(), unit_vectors(start)
    for _ in range(iterations):
        direction = direction.detach().requires_grad_()
        logs = F.log_softmax(decode(features + xi * direction), 1)
        divergence = F.kl_div(logs, target, reduction="batchmean")
        (gradient,) = torch.autograd.grad(divergence, direction)
        direction = unit_vectors(gradient)
    return eps * direction


def pointwise(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """A 1x1 convolution with this weight `(C, F, 1, 1)` and bias `(C,)` as decoder."""
    return lambda features: F.conv2d(features, weight, bias)


def confident(target: Tensor, threshold: float) -> Tensor:
    """Where the largest of the target's probabilities exceeds the threshold, `(B, 1, *spatial)` bool."""
    return target.amax(1, keepdim=True) > threshold


def kept_mse(logits: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Mean squared difference of probabilities over the kept elements."""
    error = (torch.softmax(logits, 1) - target) ** 2
    return error[kept.expand_as(error)].mean()


def kl(logits: Tensor, target: Tensor) -> Tensor:
    """`mean t (ln t - ln p)` over all elements."""
    return _kl_map(logits, target).mean()


def kept_kl(logits: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """The sum over the kept elements, divided by the number of voxels, kept or not."""
    values = _kl_map(logits, target)
    return values[kept.expand_as(values)].sum() / kept.numel()


def _kl_map(logits: Tensor, target: Tensor) -> Tensor:
    return torch.xlogy(target, target) - target * F.log_softmax(logits, 1)


def jensen_shannon_as_coded(logits: Tensor, target: Tensor, eps: float = 1e-5) -> Tensor:
    """`(KL(m || p) + KL(m || t)) / 2` with the mean m of both, means over all elements: the arguments are exchanged."""
    middle = (torch.softmax(logits, 1) + target) / 2
    to_p = torch.xlogy(middle, middle) - middle * F.log_softmax(logits, 1)
    to_target = torch.xlogy(middle, middle) - middle * (target + eps).log()
    return (to_p.mean() + to_target.mean()) / 2


def pairwise_variance(logits: Sequence[Tensor]) -> Tensor:
    """Variance of the decoders' probabilities, summed over classes, mean over samples and voxels."""
    p = torch.stack([torch.softmax(z, 1) for z in logits])
    return p.var(0, unbiased=False).sum(1).mean()
