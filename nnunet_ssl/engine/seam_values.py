"""What a method's seams return, looked at before it is used: a mistake is named, and nothing is left out of the loss in silence."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from nnunet_ssl.engine.curves import PLACES


def terms_of(seam: str, terms: Any, taken: Iterable[str] = ()) -> Mapping[str, Tensor]:
    """`terms`, if they are tensors of one number by name.

    Args:
        seam: the method that returned them, as it is named in the error.
        taken: names of other terms of the step.

    Raises:
        TypeError: they are something else.
        ValueError: a name is taken, or "loss", which is the weighted sum.
    """
    if not isinstance(terms, Mapping):
        raise TypeError(f"{seam} must return a dictionary, term -> scalar tensor, got {_kind(terms)}.")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            raise TypeError(f"{seam}: the term '{name}' must be a tensor of one number (shape ()), got {_kind(term)}.")
    if taken := sorted({"loss", *taken} & set(terms)):
        raise ValueError(f"{seam}: name(s) {taken} are those of other values of the step; choose others.")
    return terms


def weights_of_terms(seam: str, weights: Any) -> Mapping[str, float]:
    """`weights`, if they are finite numbers by name.

    Raises:
        TypeError, ValueError: they are not.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"{seam} must return a dictionary, term -> number, got {_kind(weights)}.")
    for name, weight in weights.items():
        if not isinstance(weight, Real):
            raise TypeError(f"{seam}: the weight of '{name}' must be a number, got {_kind(weight)}.")
        if not math.isfinite(weight):
            raise ValueError(f"{seam}: the weight of '{name}' is {weight}.")
    return weights


def views_of(seam: str, views: Any) -> dict[str, list]:
    """`views`, if they are lists of transforms by name, at least one.

    Raises:
        TypeError, ValueError: they are not.
    """
    if not isinstance(views, Mapping):
        raise TypeError(f"{seam} must return a dictionary, view -> list of transforms, got {_kind(views)}.")
    if not views:
        raise ValueError(f"{seam} must return at least one view, got none.")
    for name, transforms in views.items():
        if not isinstance(transforms, Sequence):
            raise TypeError(f"{seam}: the view '{name}' must be a list of transforms, got {_kind(transforms)}.")
    return {name: list(transforms) for name, transforms in views.items()}


def list_of(seam: str, found: Any, what: str) -> list:
    """`found` as a list, if it is a sequence.

    Args:
        what: is in it, "transforms", for the error.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(found, Sequence):
        raise TypeError(f"{seam} must return a list of {what}, got {_kind(found)}.")
    return list(found)


def by_name(seam: str, found: Any, what: str, kind: type | tuple[type, ...] = object) -> Mapping[str, Any]:
    """`found`, if it is a dictionary of such values.

    Args:
        what: the values, "tensor", for the error.
        kind: their class.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(found, Mapping):
        raise TypeError(f"{seam} must return a dictionary, name -> {what}, got {_kind(found)}.")
    for name, value in found.items():
        if not isinstance(value, kind):
            raise TypeError(f"{seam}: '{name}' must be a {what}, got {_kind(value)}.")
    return found


def function_of(seam: str, function: Any, of: str) -> Callable | None:
    """`function`, if it is one or None.

    Args:
        of: what it is a function of, "the labeled target", for the error.

    Raises:
        TypeError: it is something else.
    """
    if function is not None and not callable(function):
        raise TypeError(f"{seam} must return a function of {of}, or None, got {_kind(function)}.")
    return function


def extras_of(seam: str, function: Callable, taken: Collection[str], target: Tensor) -> Mapping[str, Tensor]:
    """What `function` makes of `target`, if it is tensors by name.

    Args:
        taken: names of further streams, which are extras as well.

    Raises:
        TypeError: it is something else.
        ValueError: a name is taken.
    """
    extras = by_name(f"{seam}: its function", function(target), "tensor", Tensor)
    if twice := sorted(set(taken) & set(extras)):
        raise ValueError(f"{seam}: name(s) {twice} are those of further_streams; choose others.")
    return extras


def patches_of_terms(attribute: str, patches: Mapping[str, str]) -> None:
    """Refuse places that the figure does not have: the term would be in none of its panels.

    Raises:
        ValueError: a value that is not one of `PLACES`.
    """
    if wrong := {term: place for term, place in patches.items() if place not in PLACES}:
        raise ValueError(f"{attribute}: {wrong}, allowed are LABELED, UNLABELED, BOTH of nnunet_ssl.engine.curves.")


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
