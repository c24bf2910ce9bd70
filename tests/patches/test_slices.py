"""Tests of `nnunet_ssl.patches.slices`."""

from __future__ import annotations

from nnunet_ssl.patches.slices import has_thick_slices


def test_thick_slices_are_those_nnunet_calls_anisotropic():
    assert has_thick_slices((5.0, 1.5, 1.5))
    assert not has_thick_slices((4.5, 1.5, 1.5))
    assert not has_thick_slices((1.0, 1.0, 1.0))
    assert not has_thick_slices((10.0, 1.0))
