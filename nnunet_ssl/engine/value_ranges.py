"""What values a hyper-parameter may have: read from its annotation, checked before a training starts.

    confidence: Share = 0.9
    unlabeled_weight: Weight | None = None

A weight below 0 trains backwards and a share above 1 is never reached, both without a word.
"""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import numpy as np


@dataclass(frozen=True)
class Range:
    """Smallest and largest value; None: there is none.

    Attributes:
        without: a limit that is not allowed itself.
    """

    low: float | None
    high: float | None = None
    without: float | None = None

    def __contains__(self, value: float) -> bool:
        inside = (self.low is None or self.low <= value) and (self.high is None or value <= self.high)
        return inside and value != self.without

    def __str__(self) -> str:
        if self.low is None:
            return f"below {self.high:g}" if self.without is not None else f"of at most {self.high:g}"
        if self.high is None:
            return f"above {self.low:g}" if self.without is not None else f"of at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}" + ("" if self.without is None else f", not {self.without:g}")


@dataclass(frozen=True)
class Rising:
    """Of several values none is smaller than the one before it."""

    def __contains__(self, values: Sequence[float]) -> bool:
        return all(first <= second for first, second in pairwise(values))

    def __str__(self) -> str:
        return "in rising order"


Share: TypeAlias = Annotated[float, Range(0, 1)]
"""Of a run, of patches, a probability, a decay."""
Duration: TypeAlias = Annotated[float, Range(0)]
"""As a share of the run, which ends before what lasts longer."""
Ratio: TypeAlias = Annotated[float, Range(0)]
"""Of two lengths, or a threshold that may lie above everything."""
Weight: TypeAlias = Annotated[float, Range(0)]
"""Of a loss term."""
Amount: TypeAlias = Annotated[float, Range(0)]
"""Of noise or of another change, a learning rate."""
Positive: TypeAlias = Annotated[float, Range(0, without=0)]
"""A temperature, a width or a parameter of a distribution, which something is divided by."""
PositiveShare: TypeAlias = Annotated[float, Range(0, 1, without=0)]
"""Of which a logarithm is taken, or that must be something."""
BelowOne: TypeAlias = Annotated[float, Range(0, 1, without=1)]
"""A probability of dropout or a strength, which at 1 leave nothing."""
Count: TypeAlias = Annotated[int, Range(1)]
"""Of something that there is at least one of."""
Whole: TypeAlias = Annotated[int, Range(0)]
"""A seed, or a number of something that there may be none of."""
Cosine: TypeAlias = Annotated[float, Range(-1, 1)]
"""A threshold of a similarity."""
FocalExponent: TypeAlias = Annotated[float, Range(1)] | Literal[0]
"""Between 0 and 1 the gradient has no limit."""
TeacherView: TypeAlias = Literal["weak", "student"]
"""Which view a teacher sees, see `dataloading/views.py`."""
Stored: TypeAlias = Literal["teacher", "student"]
"""Which network is validated and stored."""


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of the annotated type and in its range. Annotations of other kinds than these fit every value.

    `bool`, `int`, `float` (finite; an integer is one), `str`, `None`, `tuple[...]` (a list is one), `Literal[...]`,
    `Annotated[..., Range]`, `Annotated[tuple, Rising]` and unions of them.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ranges = [extra for extra in arguments[1:] if isinstance(extra, Range | Rising)]
        return fits(value, arguments[0]) and all(value in allowed for allowed in ranges)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple | list) and _elements_fit(value, arguments)
    if origin is Literal:
        return isinstance(value, str | Real) and not isinstance(value, bool) and value in arguments
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool | np.bool_)
    if annotation is str:
        return isinstance(value, str)
    if annotation in (int, float):
        is_number = isinstance(value, Integral if annotation is int else Real) and not isinstance(
            value, bool | np.bool_
        )
        return is_number and math.isfinite(value)
    return True


def _elements_fit(values: tuple | list, annotations: tuple) -> bool:
    if len(annotations) == 2 and annotations[1] is Ellipsis:
        annotations = annotations[:1] * len(values)
    return len(values) == len(annotations) and all(map(fits, values, annotations))


def described(annotation: Any) -> str:
    """What fits, in words: "a number from 0 to 1, or None"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return ", or ".join(map(described, arguments))
    if origin is Annotated:
        ranges = (str(extra) for extra in arguments[1:] if isinstance(extra, Range | Rising))
        return " ".join([described(arguments[0]), *ranges])
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"any number of values in brackets, each {described(arguments[0])}"
        return f"{len(arguments)} values in brackets: {', '.join(map(described, arguments))}"
    words = {bool: "True or False", int: "an integer", float: "a number", str: "a text", type(None): "None"}
    return words.get(annotation, str(annotation))
