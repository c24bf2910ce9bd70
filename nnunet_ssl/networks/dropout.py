"""Dropout for methods that need stochastic passes, added to nnU-Net's network, which has none.

Forward hooks change what flows through the network and leave its modules alone: the keys of its state dict stay those of the
stock network (`dropout_op` in the plans would rename them). Hooks have to be there before the network is compiled, that is
before its first call, so a method adds them in `build_method()`; switching them on and off later is seen by compiled networks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ssl.networks.features import encoder_of, last_encoder_stage, segmentation_layer


def drop_channels(features: Tensor, p: float) -> Tensor:
    """Dropout2d/3d: each channel of each sample is 0 with probability p, else scaled by 1/(1-p). `(B, C, *spatial)`."""
    return F.dropout2d(features, p) if features.ndim == 4 else F.dropout3d(features, p)


def complementary_masks(chosen: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Channel masks of two views: a channel is doubled in one of them and 0 in the other; of samples that are kept all are 1.

    Yang, Zhao, Zhao, "UniMatch V2", TPAMI 2025, arXiv:2410.10777. Official code: LiheYoung/UniMatch-V2 (`DPT.forward`).

    Args:
        chosen: bool `(U, F)`, the channels of the first view that are doubled.
        kept: bool `(U,)`, samples without dropout.

    Returns:
        `(U, F)` float32, twice.
    """
    first = torch.where(kept[:, None], 1.0, 2.0 * chosen)
    return first, 2 - first


class ComplementaryDropout:
    """A hook on the encoder of nnU-Net's network: two views of the same patches have complementary channels of its features.

    Within `on()` a batch is the first view of U patches, then the second one. Channels are chosen with probability 0.5 for each
    stage; half of the patches, drawn in each pass, keep all. Make it before the first forward pass, so that torch.compile sees the
    hook, and after copies of the network.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """

    def __init__(self, network: nn.Module):
        self.active = False
        encoder_of(network).register_forward_hook(self._apply)

    def _apply(self, module: nn.Module, inputs: tuple, features: list[Tensor]) -> list[Tensor] | None:
        if not self.active:
            return None
        count, device = len(features[0]) // 2, features[0].device
        kept = torch.rand(count, device=device).argsort() < count // 2
        return [
            scale_channels(f, *complementary_masks(torch.rand((count, f.shape[1]), device=device) < 0.5, kept))
            for f in features
        ]

    @contextlib.contextmanager
    def on(self, active: bool = True) -> Iterator[None]:
        """Within this context the network's batch is two views, as above; nothing changes if not `active`."""
        self.active = active
        try:
            yield
        finally:
            self.active = False


def scale_channels(features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Features `(2 U, F, *spatial)` of two views, times the channel masks `(U, F)` of each."""
    masks = torch.cat((first, second)).to(features.dtype)
    return features * masks.view(*masks.shape, *[1] * (features.ndim - 2))


class HookedDropout:
    """Channel-wise dropout after the bottleneck and before the last segmentation layer, as in the V-Net of UA-MT.

    Off until switched on with `on()`. A copy of the network made afterwards (`copy.deepcopy`) would carry a copy of the switch,
    so networks are registered first and get their dropout then.

    Args:
        network: a plain (not wrapped) network of the plans: it has `encoder.stages` and `decoder.seg_layers`.
        p: probability that a channel is dropped; 0: no hooks at all.
        in_training: also on wherever the network is in training mode, i.e. in all passes of a student, never in validation.

    Raises:
        ValueError: p is outside [0, 1).
        NotImplementedError: the network has no such places.
    """

    def __init__(self, network: nn.Module, p: float, in_training: bool = False):
        if not 0 <= p < 1:
            raise ValueError(f"the dropout probability must be in [0, 1), got {p}")
        self.p = p
        self.in_training = in_training
        self.active = False
        if p == 0:
            return
        bottleneck, last = last_encoder_stage(network), segmentation_layer(network)
        bottleneck.register_forward_hook(lambda module, _, output: self._apply(module, output))
        last.register_forward_pre_hook(lambda module, inputs: (self._apply(module, inputs[0]), *inputs[1:]))

    def _apply(self, module: nn.Module, features: Tensor) -> Tensor:
        if self.active or (self.in_training and module.training):
            return drop_channels(features, self.p)
        return features

    @contextlib.contextmanager
    def on(self, active: bool = True) -> Iterator[None]:
        """Within this context the network drops channels, in training and in evaluation mode; nothing changes if not `active`."""
        before, self.active = self.active, self.active or active
        try:
            yield
        finally:
            self.active = before
