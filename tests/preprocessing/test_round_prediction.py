"""How many predictions at their full size are held at once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from nnunet_ssl.preprocessing import round_prediction

CASES = [f"case_{i}" for i in range(6)]
OF_A_CASE = round_prediction.COPIES * 4 * 3 * 1000  # bytes: 3 classes, 1000 voxels


def held_at_most(monkeypatch, memory: int, num_processes: int = 4) -> int:
    """Runs `predict_cases` with slow writing and returns how many cases were resampled or written at a time."""
    held, most, lock = 0, 0, threading.Lock()

    def to_image(predictor, logits, properties, case, finish):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.1)
        with lock:
            held -= 1
        return finish(case, None, None, properties)

    images = ((case, None, {"shape_before_cropping": (10, 10, 10)}) for case in CASES)
    monkeypatch.setattr(round_prediction, "_preprocessed", lambda *arguments: images)
    monkeypatch.setattr(round_prediction, "_mean_of_folds", lambda *arguments: np.zeros((3, 2, 2, 2)))
    monkeypatch.setattr(round_prediction, "_to_image", to_image)
    monkeypatch.setattr(round_prediction, "available_memory", lambda: memory)
    done = dict(round_prediction.predict_cases(None, dict.fromkeys(CASES, ()), num_processes, lambda c, *_: c.upper()))
    assert done == {case: case.upper() for case in CASES}
    return most


@pytest.mark.parametrize(("cases", "expected"), [(0.5, 1), (2.5, 2), (100, 4)])
def test_as_many_as_half_of_the_memory_holds_but_one_at_least(monkeypatch, cases, expected):
    assert held_at_most(monkeypatch, int(2 * cases * OF_A_CASE)) == expected


def test_not_more_than_processes(monkeypatch):
    assert held_at_most(monkeypatch, 2**40, num_processes=1) == 1
