"""A second decoder on the encoder of nnU-Net's network: two different predictions for one forward pass of the encoder.

The network itself is not touched: a `FeatureTap` reads what its encoder hands to its own decoder, and the second decoder is a
module of its own, so that state dict, validation and prediction stay nnU-Net's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from nnunet_ssl.networks.dropout import drop_channels
from nnunet_ssl.networks.features import part_of


class AuxiliaryDecoder(nn.Module):
    """The decoder of a U-Net, with everything that it gets from the encoder perturbed in every call.

    Luo et al., MICCAI 2022 (DMPLS): dropout on all skip connections and the bottleneck keeps its predictions different from those
    of the main decoder. Ouali et al., CVPR 2020 (CCT): other perturbations do so in other ways.

    Args:
        network: a network of the plans with weights of its own. Its decoder is taken, its encoder is not kept.
        dropout: probability that a channel is dropped; 0: none.
        single_scale: logits of the highest resolution only. The layers of the lower scales, which nnU-Net's decoder keeps, are not
            trained then: DDP waits for the gradient of every parameter that is.
        perturb: from the features of all stages, the bottleneck last, to such a list, before the dropout; None: nothing.

    Raises:
        ValueError: `dropout` is outside [0, 1).
        NotImplementedError: the network is not built like nnU-Net's.
    """

    def __init__(
        self,
        network: nn.Module,
        dropout: float = 0.0,
        perturb: Callable[[list[Tensor]], list[Tensor]] | None = None,
        single_scale: bool = False,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"the dropout probability must be in [0, 1), got {dropout}")
        part_of(network, "decoder", "seg_layers")
        self.dropout = dropout
        self._perturb = perturb
        self.decoder = network.decoder
        if hasattr(self.decoder, "encoder"):
            # nnU-Net's decoder holds the encoder that it was made for: parameters that would never get a gradient
            del self.decoder.encoder
        if single_scale:
            self.decoder.deep_supervision = False
            self.decoder.seg_layers[:-1].requires_grad_(False)

    def forward(self, features: list[Tensor]) -> Tensor | list[Tensor]:
        """Logits as those of the network, a list with deep supervision.

        Args:
            features: what the encoder gives, `(B, F, *spatial)` of each stage, the bottleneck last.
        """
        if self._perturb is not None:
            features = self._perturb(features)
        if self.dropout:
            features = [drop_channels(f, self.dropout) for f in features]
        return self.decoder(features)
