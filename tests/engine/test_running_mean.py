"""Tests of `nnunet_ssl.engine.running_mean`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.engine.running_mean import RunningMean


def test_the_running_mean_begins_with_the_first_value_and_passes_over_what_is_not_finite():
    mean = RunningMean((3,), decay=0.75, initial=9.0)
    nan = float("nan")
    assert mean(torch.tensor([1.0, 3.0, nan], dtype=torch.float64)).tolist() == [1, 3, 9]
    assert mean(torch.tensor([nan, 7.0, nan])).tolist() == [1, 4, 9]
    assert mean(torch.tensor([5.0, 4.0, 2.0])).tolist() == [2, 4, 2]
    assert mean.updates.tolist() == [2, 3, 1]
    with pytest.raises(ValueError, match="decay"):
        RunningMean((2,), decay=1.0)
