"""Tests of `nnunet_ssl.networks.auxiliary_decoder`; what it makes of nnU-Net's networks is in tests/trainers/test_dmpls.py."""

from __future__ import annotations

import pytest
from torch import nn

from nnunet_ssl.networks.auxiliary_decoder import AuxiliaryDecoder


def test_a_network_of_another_build_is_refused():
    with pytest.raises(NotImplementedError, match=r"Linear has no `decoder\.seg_layers`"):
        AuxiliaryDecoder(nn.Linear(1, 1), 0.5)
