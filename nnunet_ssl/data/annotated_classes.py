"""The key `partial_labels` of dataset.json: which classes are annotated in which case.

    "partial_labels": {
      "default": "all",                                                 # cases not mentioned
      "sources": {
        "lits": {"prefix": "lits_", "annotated": ["liver", "tumor"]},
        "nihp": {"cases": ["nihp_0001"], "annotated": ["pancreas"]}
      },
      "cases": {"odd_017": ["liver"]}                                   # wins over sources; [] = nothing is annotated
    }

Label maps hold the global label ids; what is not annotated in a case is 0 there. nnU-Net keeps unknown keys of dataset.json and
hands them to the trainer. With regions the names are those of the regions; a region counts as annotated in a case where it is
named, or where named regions inside it make up all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ssl.data.label_values import label_values
from nnunet_ssl.errors import UserError, excerpt

KEY = "partial_labels"
RARE = 0.01  # a class annotated in a smaller share of the training cases is worth a warning
SAMPLINGS = ("sqrt", "uniform", "class_balanced")
_EXAMPLE = (
    '"partial_labels": {"default": "all", "sources": {"lits": {"prefix": "lits_", "annotated": ["liver"]}}}. '
    "`nnunet_ssl merge` writes it"
)

Target = int | tuple[int, ...]  # a label, or the labels of a region


def as_target(label: int | Sequence[int]) -> Target:
    """A label or a region of nnU-Net's label manager, dataset.json or `class_locations`."""
    return tuple(label) if isinstance(label, (list, tuple)) else int(label)


@dataclass(frozen=True)
class Source:
    """Cases with the same annotated classes: those whose id begins with `prefix`, or those of a list."""

    prefix: str | None
    cases: frozenset[str]
    annotated: frozenset[str]

    def has(self, case: str) -> bool:
        return case in self.cases if self.prefix is None else case.startswith(self.prefix)


@dataclass(frozen=True)
class PartialLabels:
    """What is annotated where. `labels`: class or region -> its label ids, without background and ignore."""

    labels: dict[str, frozenset[int]]
    default: frozenset[str]
    sources: dict[str, Source]
    cases: dict[str, frozenset[str]]
    file: str

    @classmethod
    def of(cls, dataset_json: Mapping, file: str | Path = "dataset.json") -> PartialLabels | None:
        """Read the key; None where dataset.json does not have it.

        Args:
            file: what messages call the file.

        Raises:
            UserError: the key is malformed, or names a class that `labels` does not have.
        """
        if KEY not in dataset_json:
            return None
        labels = {
            name: frozenset(np.atleast_1d(value).tolist())
            for name, value in label_values(dataset_json, file).items()
            if name != "ignore" and np.any(value)  # background is 0 alone
        }
        content = dataset_json[KEY]

        def refuse(key: str, found: object, allowed: str) -> UserError:
            return UserError(
                f"{file}: {key} is {excerpt(found)}; allowed is {allowed}. Correct it. Example: {_EXAMPLE}."
            )

        def names(key: str, found: object, all_allowed: bool = False) -> frozenset[str]:
            if all_allowed and found == "all":
                return frozenset(labels)
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise refuse(key, found, 'a list of class names or "all"' if all_allowed else "a list of class names")
            for name in found:
                if name not in labels:
                    raise refuse(f"{key}: class '{name}'", name, f"a class of `labels`: {', '.join(labels)}")
            return frozenset(found)

        def part(key: str, allowed: Collection[str], found: object) -> dict:
            if not isinstance(found, dict):
                raise refuse(key, found, f"an object with {', '.join(allowed)}" if allowed else "an object")
            for name in found:
                if allowed and name not in allowed:
                    raise refuse(f"{key}.{name}", found[name], f"one of the keys {', '.join(allowed)}")
            return found

        part(KEY, ("default", "sources", "cases"), content)
        sources = {}
        for name, entry in part(f"{KEY}.sources", (), content.get("sources", {})).items():
            key = f"{KEY}.sources.{name}"
            part(key, ("prefix", "cases", "annotated"), entry)
            if ("prefix" in entry) == ("cases" in entry):
                raise refuse(key, entry, 'either "prefix" or "cases", and "annotated"')
            if "annotated" not in entry:
                raise refuse(key, entry, 'an object with "annotated", the classes of this source')
            prefix, listed = entry.get("prefix"), entry.get("cases", [])
            if prefix is not None and (not isinstance(prefix, str) or not prefix):
                raise refuse(f"{key}.prefix", prefix, "the text with which the case ids begin")
            if not isinstance(listed, list) or not all(isinstance(case, str) for case in listed):
                raise refuse(f"{key}.cases", listed, "a list of case ids")
            annotated = names(f"{key}.annotated", entry["annotated"], all_allowed=True)
            sources[name] = Source(prefix, frozenset(listed), annotated)
        cases = {
            case: names(f"{KEY}.cases.{case}", found, all_allowed=True)
            for case, found in part(f"{KEY}.cases", (), content.get("cases", {})).items()
        }
        default = names(f"{KEY}.default", content.get("default", "all"), all_allowed=True)
        return cls(labels, default, sources, cases, str(file))

    def source(self, case: str) -> str | None:
        """Name of the source of a case; None for a case of none. UserError for a case of two."""
        found = [name for name, source in self.sources.items() if source.has(case)]
        if len(found) > 1:
            raise UserError(
                f"{self.file}: case {case} belongs to the sources {', '.join(found)} of {KEY}; allowed is one. Make the "
                "prefixes distinct or list the cases."
            )
        return found[0] if found else None

    def names(self, case: str) -> frozenset[str]:
        """Names that are annotated in a case."""
        source = self.source(case)
        of_source = self.default if source is None else self.sources[source].annotated
        return self.cases.get(case, of_source)

    def is_annotated(self, case: str, target: Target) -> bool:
        """Whether a label, or a region given by its labels, is annotated in a case."""
        return _made_up_of(target, [self.labels[name] for name in self.names(case)])

    def columns(self, case: str, targets: Sequence[Target]) -> frozenset[int]:
        """Which of the targets are annotated in a case, counted from 1."""
        named = [self.labels[name] for name in self.names(case)]
        return frozenset(i for i, target in enumerate(targets, start=1) if _made_up_of(target, named))

    def check(self, present: Mapping[str, Collection[Target]], also_known: Iterable[str] = ()) -> None:
        """Refuse a table that contradicts the cases. (Of a region only its disjointness from all annotated ones is seen.)

        Args:
            present: case of imagesTr -> labels or regions that occur in its label map.
            also_known: further cases that the table may name (test cases).

        Raises:
            UserError: a stored label that is not annotated; a case or a source without a case; nothing annotated anywhere.
        """
        known = {*present, *also_known}
        listed = {case: f"{KEY}.cases" for case in self.cases}
        listed |= {case: f"{KEY}.sources.{name}.cases" for name, s in self.sources.items() for case in s.cases}
        for case, key in sorted(listed.items()):
            if case not in known:
                raise UserError(f"{self.file}: {key} names {case}, which is no case of the data set. Correct the id.")
        for name, source in self.sources.items():
            if source.prefix is not None and not any(source.has(case) for case in known):
                raise UserError(
                    f"{self.file}: no case begins with '{source.prefix}', the prefix of {KEY}.sources.{name}. Correct it."
                )
        for case, targets in sorted(present.items()):
            allowed = frozenset().union(*(self.labels[name] for name in self.names(case)))
            for target in targets:
                labels = frozenset(np.atleast_1d(target).tolist())
                if not labels & allowed:
                    raise UserError(
                        f"{self.file}: the label map of case {case} holds '{self._name(labels)}' (label "
                        f"{', '.join(map(str, sorted(labels)))}), which {KEY} does not name as annotated there: "
                        f"{', '.join(sorted(self.names(case))) or 'nothing'}. Add the class to `annotated` of this case, or "
                        "remove it from the label map and preprocess again."
                    )
        if present and not any(self.names(case) for case in present):
            raise UserError(
                f"{self.file}: {KEY} names no annotated class in any case. Correct it. Example: {_EXAMPLE}."
            )

    def _name(self, labels: frozenset[int]) -> str:
        return next((name for name, value in self.labels.items() if value == labels), str(sorted(labels)))

    def summary(self, present: Mapping[str, Collection[Target]], targets: Sequence[Target]) -> list[str]:
        """Per class in how many of these cases it is annotated and in how many it occurs, for the log.

        Raises:
            UserError: a class is annotated in none of them: nothing would teach it.
        """
        lines = []
        for target in targets:
            name = self._name(frozenset(np.atleast_1d(target).tolist()))
            annotated = [case for case in present if self.is_annotated(case, target)]
            if not annotated:
                raise UserError(
                    f"{self.file}: '{name}' is annotated in none of the {len(present)} training cases of this fold, so that "
                    "nothing teaches it. Train a fold whose training cases have it (`nnunet_ssl merge` writes folds that keep "
                    f"every source on both sides), or correct {KEY}."
                )
            occurs = sum(target in present[case] for case in annotated)
            line = f"{name}: annotated in {len(annotated)} of {len(present)} training cases, occurs in {occurs}"
            rare = len(annotated) < RARE * len(present)
            lines.append(f"{line}. Warning: that is less than {RARE:.0%} of the cases" if rare else line)
        return lines

    def probabilities(self, cases: Sequence[str], targets: Sequence[Target], sampling: str) -> np.ndarray | None:
        """With which probability a patch is drawn from each case; None where all are equal.

        Args:
            sampling: "sqrt": P(case) ~ 1 / sqrt(number of cases of its source), so that P(source) ~ sqrt(n); MultiTalent.
                "uniform": every case the same. "class_balanced": a class is drawn, then one of the cases that annotate it.

        Raises:
            ValueError: another sampling.
        """
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {sampling!r}")
        if sampling == "uniform":
            return None
        if sampling == "sqrt":
            sources = [self.source(case) for case in cases]
            weights = np.array([sources.count(source) ** -0.5 for source in sources])
        else:
            annotated = np.array([[self.is_annotated(case, t) for t in targets] for case in cases], dtype=float)
            counts = annotated.sum(0)
            weights = (annotated[:, counts > 0] / counts[counts > 0]).sum(1)
        return None if np.allclose(weights, weights[0], rtol=1e-12) else weights / weights.sum()


def _made_up_of(target: Target, named: Iterable[frozenset[int]]) -> bool:
    labels = frozenset(np.atleast_1d(target).tolist())
    return frozenset().union(*(part for part in named if part <= labels)) == labels
