"""A discriminator that sees a mask at several resolutions.

Valvano, Leo, Tsaftaris, "Learning to Segment from Scribbles using Multi-scale Adversarial Attention Gates", IEEE TMI 2021,
arXiv:2007.01152. Official code: gvalvano/multiscale-adversarial-attention-gates (`multi_res_discriminator.py`).

The mask of level 0 goes through a convolution that halves the resolution; then, level by level, the features are squeezed to a few
channels, the mask of that level is appended, and a convolution with spectral normalization follows. The last layer is as large as
what arrives there and gives one number per mask. Differs from the official code: the resolution falls as that of the segmentation
network's scales does, in 2D and 3D (official: halved, 2D), with kernels of stride + 2 voxels (official: 4), hence of 4 where it is
halved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

MAX_LEVELS = 4  # as in the official code


class MaskDiscriminator(nn.Module):
    """Masks of one batch at falling resolutions to one number each; high for real ones.

    Args:
        channels: of the masks: foreground classes, or regions.
        size: spatial extent of level 0, voxels.
        strides: per axis, from each level to the next; as many as there are further levels of the network. The first `MAX_LEVELS`
            levels are used.
        features: of the first convolution; 4, 8 and 16 times as many follow. Official code: 32.
        squeezed: channels that features are squeezed to. Official code: 13.
        noise: standard deviation of the noise on level 0 while training. Official code: 0.2.

    Attributes:
        sizes: spatial extent of every level that it looks at.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        strides: Sequence[Sequence[int]],
        features: int = 32,
        squeezed: int = 13,
        noise: float = 0.2,
    ):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
        strides = [list(s) for s in strides[: MAX_LEVELS - 1]]
        self.noise = noise
        self.sizes = [list(size)]
        for stride in strides:
            self.sizes.append([n // s for n, s in zip(self.sizes[-1], stride, strict=True)])
        # the last level keeps its resolution; a network with one level has it halved before the last layer
        steps = [*strides, [1] * len(size)] if strides else [[2] * len(size)]
        self.first = conv(channels, features, [s + 2 for s in steps[0]], steps[0], padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        self.squeeze, self.blocks = nn.ModuleList(), nn.ModuleList()
        width = features
        for level, step in enumerate(steps[1:], start=1):
            wider = 2 * features * 2**level
            block = conv(squeezed + channels, wider, [s + 2 for s in step], step, padding=1)
            nn.init.xavier_uniform_(block.weight)
            self.squeeze.append(conv(width, squeezed, 1))
            self.blocks.append(spectral_norm(block))
            width = wider
        last = self.sizes[-1] if strides else [n // 2 for n in size]
        self.last = conv(width, 1, last)
        nn.init.xavier_uniform_(self.last.weight)
        for layer in (self.first, *self.squeeze, *self.blocks, self.last):
            nn.init.zeros_(layer.bias)

    # spectral normalization changes its buffers in every pass, which is not worth a compiled graph
    @torch.compiler.disable
    def forward(self, masks: Sequence[Tensor]) -> Tensor:
        """Masks `(B, channels, *sizes[i])`, one per level, to `(B, 1)`; in float32."""
        with torch.autocast(masks[0].device.type, enabled=False):
            masks = [mask.float() for mask in masks]
            x = masks[0] + self.noise * torch.randn_like(masks[0]) if self.training else masks[0]
            x = F.leaky_relu(self.first(x), 0.2)
            for squeeze, block, mask in zip(self.squeeze, self.blocks, masks[1:], strict=True):
                x = torch.tanh(block(torch.cat((torch.sigmoid(squeeze(x)), mask), 1)))
            return self.last(x).flatten(1)


def mask_levels(masks: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """One mask per level: those that are given, and for further levels the first one at their size.

    Args:
        masks: `(B, C, *sizes[i])`, probabilities or 0 and 1.
        sizes: spatial extent of every level.

    Returns:
        `(B, C, *sizes[i])` for each level, resized linearly in float32.
    """
    kept = list(masks[: len(sizes)])
    mode = {2: "bilinear", 3: "trilinear"}[len(sizes[0])]
    return kept + [F.interpolate(masks[0].float(), list(size), mode=mode) for size in sizes[len(kept) :]]
