"""Deviations of intensities within and between classes."""

from __future__ import annotations

from torch import Tensor


def intra_class_deviation(p: Tensor, images: Tensor) -> Tensor:
    """`mean_{n,c} std_v(I_nv p_ncv)`, as WSL4MIS has it, of images with one channel. Not a variance inside classes: voxels that
    do not belong to the class enter as zeros."""
    return (images * p).flatten(2).std(2).mean()


def inter_class_deviation(p: Tensor, images: Tensor) -> Tensor:
    """`mean_n std_c mean_v(I_nv p_ncv)`, as WSL4MIS has it, of images with one channel."""
    return (images * p).flatten(2).mean(2).std(1).mean()
