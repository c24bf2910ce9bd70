"""How much of an image a patch shows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nnunet_ssl.engine.features import large_enough_to_mix, patch_share, warn_of_small_patches
from tests.helpers.training import make_trainer


def trainer(patch, image):
    log: list[str] = []
    configuration = SimpleNamespace(patch_size=patch, median_image_size_in_voxels=image)
    return SimpleNamespace(configuration_manager=configuration, print_to_log_file=log.append, log=log)


def test_the_share_is_the_smallest_along_an_axis_and_at_most_one():
    assert patch_share(trainer([96, 96], [140, 126])) == pytest.approx(96 / 140)
    assert patch_share(trainer([96, 96], [10, 140, 126])) == pytest.approx(
        96 / 140
    )  # 2D plans of some versions have three axes
    assert patch_share(trainer([20, 32, 48], [18, 30, 40])) == 1


def test_only_small_patches_are_warned_of():
    small, large = trainer([96, 96], [237, 208]), trainer([96, 96], [140, 126])
    warn_of_small_patches(small), warn_of_small_patches(large)
    assert len(small.log) == 1 and "41%" in small.log[0] and large.log == []


def test_small_patches_are_not_mixed_and_the_log_says_so():
    small, large = trainer([96, 96], [140, 126]), trainer([128, 128], [140, 126])
    assert not large_enough_to_mix(small, 0.8) and "69%" in small.log[0] and "smallest_share" in small.log[0]
    assert large_enough_to_mix(large, 0.8) and large.log == []


@pytest.mark.parametrize(
    "name, axes",
    [
        *((name, axes) for name in ("CycleMix", "ShapePU", "ScribbleUSTM", "FilterMatch") for axes in (None, (1,))),
        ("PointsConsistency", None),
    ],
)
def test_methods_that_turn_patches_are_refused_where_left_and_right_differ(name, axes, datasets, tmp_path):
    weak = {} if name == "FilterMatch" else {"ignore": True, "unlabeled": 0}
    found = make_trainer("nnUNetTrainer" + name, *datasets(**weak), results=tmp_path)
    found.check_supported()
    *others, _ = found.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    found.configure_rotation_dummyDA_mirroring_and_inital_patch_size = lambda: (*others, axes)
    with pytest.raises(NotImplementedError, match="left"):
        found.initialize()
