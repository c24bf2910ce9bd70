"""A discriminator that sees an image and a map of it (probabilities, a signed distance), and says which kind of image it is.

Zhang, Yang, Chen, Fredericksen, Hughes, Chen, "Deep Adversarial Networks for Biomedical Image Segmentation Utilizing Unannotated
Images", MICCAI 2017, in the form of HiLab-git/SSL4MIS (`networks/discriminator.py`), which is also that of kleinzcy/SASSnet.

Map and image each go through a convolution that halves the resolution, and are added; three more such convolutions follow, then the
mean over the voxels and a linear layer. Differs from the official code: the mean goes over all voxels (official: over windows as
large as the patch asks for, which ties the discriminator to it), and an axis of less than 4 voxels keeps its resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = 4  # halvings of the resolution; as in the official code
SMALLEST_HALVED = 4  # voxels along an axis


class MapDiscriminator(nn.Module):
    """Images with a map each to two logits: of an unlabeled image (0) and of a labeled one (1).

    Args:
        map_channels, image_channels: of both inputs. 0 image channels: it sees maps alone.
        size: of the patch, voxels along each axis.
        features: of the first convolution; 2, 4 and 8 times as many follow. Official code: 64.
        dropout: probability that a channel is dropped after the middle layers. Official code: 0.5.
        activate_sum: the sum of both first features goes through LeakyReLU and dropout, as in the official 3D code; None: in 3D.
        window: of the mean, voxels along each axis of the last features, as in the official code; None: all of them.
    """

    def __init__(
        self,
        map_channels: int,
        image_channels: int,
        size: Sequence[int],
        features: int = 64,
        dropout: float = 0.5,
        activate_sum: bool | None = None,
        window: Sequence[int] | None = None,
    ):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
        self.activate_sum = len(size) == 3 if activate_sum is None else activate_sum
        self.window = None if window is None else tuple(window)
        self.dropout = (nn.Dropout2d if len(size) == 2 else nn.Dropout3d)(dropout)
        inputs, sizes = [0, features, 2 * features, 4 * features], list(size)
        layers = []
        for level in range(CONVOLUTIONS):
            strides = [2 if n >= SMALLEST_HALVED else 1 for n in sizes]
            form = {"kernel_size": [s + 2 if s == 2 else 3 for s in strides], "stride": strides, "padding": 1}
            if level == 0:
                self.of_map = conv(map_channels, features, **form)
                self.of_image = conv(image_channels, features, **form) if image_channels else None
            else:
                layers.append(conv(inputs[level], 2 * inputs[level], **form))
            sizes = [n // s for n, s in zip(sizes, strides)]
        self.layers = nn.ModuleList(layers)
        cells = 1 if window is None else math.prod(n // w for n, w in zip(sizes, window, strict=True))
        self.classifier = nn.Linear(8 * features * cells, 2)

    # small, and called in training and in evaluation mode in one step: not worth a compiled graph for each
    @torch.compiler.disable
    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        """Maps `(B, map_channels, *size)` and images `(B, channels, *size)` to logits `(B, 2)`, in float32."""
        with torch.autocast(images.device.type, enabled=False):
            x = self.of_map(maps.float())
            if self.of_image is not None:
                x = x + self.of_image(images.float())
            if self.activate_sum:
                x = self.dropout(F.leaky_relu(x, 0.2))
            for layer in self.layers[:-1]:
                x = self.dropout(F.leaky_relu(layer(x), 0.2))
            x = F.leaky_relu(self.layers[-1](x), 0.2)
            if self.window is None:
                pooled = x.flatten(2).mean(2)
            else:
                pooled = (F.avg_pool2d if x.ndim == 4 else F.avg_pool3d)(x, self.window).flatten(1)
            return self.classifier(pooled)
