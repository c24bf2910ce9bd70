"""A second decoding of a part of the batch, from perturbed features, in one pass of the encoder.

nnU-Net's U-Nets hand the features of all encoder stages to their decoder. A forward hook on the encoder appends the perturbed
features of a part of the batch to them, so that the decoder sees a longer batch. It is one call of the network: torch.compile and
DistributedDataParallel see nothing special, deep supervision gives both decodings at every scale, and the state dict is nnU-Net's.
With instance norm this equals two calls of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, cat, nn

from nnunet_ssl.networks.dropout import drop_channels
from nnunet_ssl.networks.features import encoder_of


class SecondDecoding:
    """Decodes the last patches of a batch twice: from their features, and from `perturb` of these.

    Make it before the first forward pass, so that torch.compile sees the hook, and after copies of the network (teachers), which
    would have a copy of it.

    Args:
        member: a network of the engine (it has `module`, and gives a list of logits when it is called).
        perturb: from the features of all encoder stages, each `(P, F, *spatial)`, the bottleneck last, to such a list.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's PlainConvUNet or ResidualEncoderUNet.
    """

    def __init__(self, member, perturb: Callable[[list[Tensor]], list[Tensor]]):
        self.member = member
        self._perturb = perturb
        self._first: int | None = None  # patch of the batch that is decoded twice, with all that follow
        encoder_of(member.module).register_forward_hook(self._append)

    def _append(self, module: nn.Module, inputs: tuple, features: list[Tensor]) -> list[Tensor] | None:
        if self._first is None:
            return None
        perturbed = self._perturb([f[self._first :] for f in features])
        return [cat(pair) for pair in zip(features, perturbed, strict=True)]

    def __call__(self, images: Tensor, first: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """The network's logits of all images, and those of the second decoding.

        Args:
            images: `(B, C, *spatial)`.
            first: those from here on are decoded twice, P = B - first of them.

        Returns:
            logits `(B, K, *spatial)` and `(P, K, *spatial)` of each scale, highest resolution first.
        """
        self._first = first
        try:
            scales = self.member(images)
        finally:
            self._first = None
        return [z[: len(images)] for z in scales], [z[len(images) :] for z in scales]


class DroppedChannels:
    """A perturbation of features: whole channels of every stage are dropped, as in UniMatch's feature stream.

    Args:
        p: probability that a channel is dropped; official code of UniMatch: 0.5.
    """

    def __init__(self, p: float):
        self.p = p

    def __call__(self, features: list[Tensor]) -> list[Tensor]:
        return [drop_channels(f, self.p) for f in features]
