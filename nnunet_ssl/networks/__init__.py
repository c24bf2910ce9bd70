"""What methods need beside nnU-Net's own network, and networks of ours that plans can name."""

from nnunet_ssl.networks.vnet import VNet

__all__ = ["VNet"]
