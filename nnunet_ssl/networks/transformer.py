"""A vision transformer from nnU-Net's plans, beside nnU-Net's convolutional network: Primus, in 3D and in 2D.

Wald et al., "Primus: Enforcing Attention Usage for 3D Medical Image Segmentation", arXiv:2503.01835; the implementation is that
of the package dynamic_network_architectures, which nnU-Net depends on. It takes 3D images whose extents are multiples of the
size of its tokens. An image of two axes is one with a single slice, in tokens of one slice; others are padded, and the logits
cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from dynamic_network_architectures.architectures.primus import Primus
from torch import Tensor, nn

# those of nnU-Net's nnUNet_Primus_*_Trainer: features of a token, layers, heads
SIZES = {"S": (396, 12, 6), "B": (792, 12, 12), "M": (864, 16, 12)}
TOKEN = 8  # voxels along each axis


def padded_shape(shape: Sequence[int], token: int = TOKEN) -> list[int]:
    """The smallest extents of at least `shape` that are multiples of `token`."""
    return [-(-extent // token) * token for extent in shape]


class Transformer(nn.Module):
    """Primus for images of one shape: `(B, input_channels, *shape)` to logits `(B, channels, *shape)`.

    Args:
        input_channels: of the images.
        channels: logits per voxel.
        shape: spatial extent in voxels, two or three axes.
        size: a key of `SIZES`.
        drop_path: probability that a layer is skipped while training (stochastic depth). nnU-Net's: 0.2.

    Raises:
        ValueError: unknown size.
    """

    def __init__(self, input_channels: int, channels: int, shape: Sequence[int], size: str, drop_path: float = 0.2):
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size must be one of {sorted(SIZES)}, got {size!r}")
        features, layers, heads = SIZES[size]
        self.shape, self.padded = list(shape), padded_shape(shape)
        flat = len(shape) == 2
        self.primus = Primus(
            input_channels,
            features,
            (1, TOKEN, TOKEN) if flat else (TOKEN,) * 3,
            channels,
            layers,
            heads,
            (1, *self.padded) if flat else tuple(self.padded),
            drop_path_rate=drop_path,
            scale_attn_inner=True,
            init_values=0.1,
        )

    def forward(self, images: Tensor) -> Tensor:
        missing = [whole - own for whole, own in zip(self.padded, self.shape)]
        images = F.pad(images, [n for extent in reversed(missing) for n in (0, extent)])
        logits = self.primus(images.unsqueeze(2)).squeeze(2) if len(self.shape) == 2 else self.primus(images)
        return logits[(..., *(slice(extent) for extent in self.shape))]
