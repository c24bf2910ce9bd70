"""Test-only trainers that need the engine's less common seams. nnU-Net finds them through nnUNet_extTrainer."""

from nnunet_ssl_test_methods import (  # noqa: F401
    nnUNetTrainerTestKilled,
    nnUNetTrainerTestMixing,
    nnUNetTrainerTestSecondDecoding,
    nnUNetTrainerTestShrinkingPool,
    nnUNetTrainerTestTwoNetworks,
    nnUNetTrainerTestWeak,
)
