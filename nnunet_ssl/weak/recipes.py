"""The recipe that the options of `nnunet_ssl weaken` ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nnunet_ssl.errors import UserError
from nnunet_ssl.weak.generate import RULES, Recipe

# option -> smallest and largest allowed value
LIMITS = {
    "components": (1, None),
    "radius": (0, None),
    "margin": (0, None),
    "background_points": (0, None),
    "every": (2, None),
    "fraction": (0, 1),
}
# kinds, or a kind and its rule, in which nothing is drawn at random, and in which slices are not told apart
NOT_DRAWN = {"boxes", ("scribble", "skeleton"), ("slices", "every")}
WITHOUT_SLICES = {"partial", ("boxes", "3d")}


def make_recipe(
    kind: str,
    rule: str | None = None,
    options: Mapping[str, float | None] | None = None,
    axis: int | None = None,
    seed: int | None = None,
) -> Recipe:
    """The recipe of a kind of weak label, with the defaults of what is not given.

    Args:
        kind: a key of `RULES`.
        rule: of the kind; None: its first one.
        options: keys of `LIMITS`; None: not given.
        axis, seed: None: not given, 0.

    Raises:
        UserError: a rule or an option that the kind does not have, a value out of range.
    """
    given = {name: (options or {}).get(name) for name in LIMITS}
    rules = RULES[kind]
    if kind == "slices":
        if given["every"] is not None and given["fraction"] is not None:
            raise UserError("--every and --fraction both say which slices stay dense. Give one of them.")
        if rule is not None:
            raise UserError(f"--rule {rule}: the kind slices has no rules; choose with --every or --fraction.")
        rule = "every" if given["every"] is not None else "fraction"
    elif rule is None:
        rule = next(iter(rules))
    if rule not in rules:
        allowed = ", ".join(name for name in rules if name) or "none, leave --rule out"
        raise UserError(f"--rule {rule}: the kind {kind} does not have it. Allowed: {allowed}.")
    what = f"--kind {kind}" + (f" with the rule {rule}" if rule else "")
    for name, value, without in (("seed", seed, NOT_DRAWN), ("axis", axis, WITHOUT_SLICES)):
        if value is not None and without & {kind, (kind, rule)}:
            raise UserError(f"--{name} does nothing for {what}. Leave it out.")
    chosen = dict(rules[rule])
    for name, (low, high) in LIMITS.items():
        value = given[name]
        if value is None:
            continue
        if name not in chosen:
            allowed = ", ".join(f"--{option}" for option in chosen) or "none"
            raise UserError(f"--{name} does nothing for {what}. Its options: {allowed}.")
        if not value >= low or value == math.inf or (high is not None and not low < value < high):
            allowed = f"{low} and more" if high is None else f"a number between {low} and {high}"
            raise UserError(f"--{name} is {value}; allowed is {allowed}.")
        chosen[name] = value
    return Recipe(kind, rule, chosen, axis or 0, seed or 0)
