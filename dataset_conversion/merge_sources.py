"""The data sets that `nnunet_ssl merge` makes one of: which of their classes become which common class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.annotated_classes import KEY, PartialLabels
from nnunet_ssl.data.derived import LABELS_HASH, LISTS_HASH, carried_list, hash_labels, hash_lists
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError

# formats whose label maps nnU-Net's reader writes as it has read them, without further files beside them
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "NaturalImage2DIO")

# keys of dataset.json that a merge makes anew, and those that stand for files or labels which the merged data set does not have
MADE_ANEW = {
    "name",
    "channel_names",
    "modality",
    "labels",
    "numTraining",
    "file_ending",
    "overwrite_image_reader_writer",
    KEY,
}
MADE_ANEW |= {"nnunet_ssl", "groups", "numTest"}
OF_FILES_OR_LABELS = {"training", "test", "size_bounds", "regions_class_order"}


@dataclass(frozen=True)
class Source:
    """One data set to merge.

    Attributes:
        codes: label of its label maps -> label of the merged ones.
        parts: common class -> its own classes that become it.
        case_list: its unlabeled.json with the groups of dataset.json, of both folders; None without either.
        partial: its own partial labels, None where every case annotates everything.
    """

    raw: RawDataset
    prefix: str
    codes: Mapping[int, int]
    parts: Mapping[str, frozenset[str]]
    case_list: UnlabeledList | None
    partial: PartialLabels | None

    def annotated(self, case: str) -> list[str]:
        """Common classes that a case annotates.

        Raises:
            UserError: it annotates a part of a common class only.
        """
        if self.partial is None:
            return list(self.parts)
        names = self.partial.names(case)
        found = []
        for common, own in self.parts.items():
            if own <= names:
                found.append(common)
            elif own & names:
                raise UserError(
                    f"{self.raw.name}: case {case} annotates {', '.join(sorted(own & names))} but not "
                    f"{', '.join(sorted(own - names))}, and the map makes one class '{common}' of both. Keep them apart in --map."
                )
        return found

    def patient(self, case: str) -> str:
        return self.prefix + (case if self.case_list is None else self.case_list.patient(case))


def check_sources(raws: Sequence[RawDataset]) -> None:
    """UserError for data sets that cannot be one."""
    first = raws[0]
    if len(raws) < 2 or len({raw.name for raw in raws}) < len(raws):
        raise UserError(f"-i {' '.join(raw.name for raw in raws)}: allowed are two data sets or more, each once.")
    for raw in raws:
        file = raw.folder / "dataset.json"
        if any(isinstance(value, list) for value in raw.dataset_json["labels"].values()):
            raise UserError(
                f"{file}: its labels are regions, which overlap. Allowed are classes that exclude each other: give the "
                "data set plain labels."
            )
        if "dataset" in raw.dataset_json:
            raise UserError(
                f"{file}: the key 'dataset' names files elsewhere. Allowed are data sets with their images in imagesTr."
            )
        reader = raw.reader_writer_class.__name__
        if reader not in READERS:
            raise UserError(f"{raw.folder}: its files are read by {reader}; allowed are {', '.join(READERS)}.")
        for key in ("file_ending", "overwrite_image_reader_writer"):
            if raw.dataset_json.get(key) != first.dataset_json.get(key):
                raise UserError(
                    f"{file}: '{key}' is {raw.dataset_json.get(key)}, in {first.name} it is {first.dataset_json.get(key)}. They "
                    "must agree: convert the files of one."
                )
        if reader != first.reader_writer_class.__name__:
            raise UserError(
                f"{raw.folder}: its files are read by {reader}, those of {first.name} by {first.reader_writer_class.__name__}: "
                "nnU-Net would read all with one. Convert the files of one, or give both the same "
                "'overwrite_image_reader_writer' in dataset.json."
            )
        if raw.channel_names != first.channel_names:
            raise UserError(
                f"{file}: the channels are {', '.join(raw.channel_names)}, in {first.name} "
                f"{', '.join(first.channel_names)}. They must agree in number, order and name (nnU-Net normalizes by the "
                "name): correct channel_names if the images do."
            )


def load_map(file: Path | None) -> dict | None:
    if file is None:
        return None
    content = read_json(file, remedy="`nnunet_ssl merge -h` shows an example for --map.")
    if not all(isinstance(part, dict) for part in content.values()):
        raise UserError(f"--map {file} must give each data set an object. `nnunet_ssl merge -h` shows an example.")
    return content


def read_sources(
    raws: Sequence[RawDataset], mapping: Mapping | None, file: Path | None, ignore: bool
) -> tuple[dict[str, int], list[Source]]:
    """The labels of the merged data set, and its sources.

    Args:
        mapping: data set -> own class (label or name) -> common name or None; None: every class keeps its name.
        ignore: whether there shall be an ignore label.

    Raises:
        UserError: an unknown data set or class in the map, a class that it forgets or names twice, null without ignore label.
    """
    rest = dict(mapping or {})
    chosen = []
    for raw in raws:
        keys = [key for key in dict.fromkeys((raw.name, raw.id, str(int(raw.id)))) if key in rest]
        if mapping is not None and len(keys) != 1:
            raise UserError(
                f"--map {file}: {raw.name} is named {'twice' if keys else 'nowhere'} (found: {', '.join(mapping)}). Allowed is "
                f"once, as {int(raw.id)} or {raw.name}."
            )
        chosen.append(_common_names(raw, rest.pop(keys[0]) if keys else None, file))
    if rest:
        raise UserError(f"--map {file}: {', '.join(rest)} is not among the data sets of -i. Remove it.")
    merged = list(dict.fromkeys(common for names in chosen for common in names.values() if common is not None))
    ignore = ignore or any("ignore" in raw.dataset_json["labels"] for raw in raws)
    labels = {"background": 0, **{name: i for i, name in enumerate(merged, start=1)}}
    if ignore:
        labels["ignore"] = len(labels)
    sources = []
    for raw, names, prefix in zip(raws, chosen, _prefixes(raws), strict=True):
        own = raw.dataset_json["labels"]
        unwanted = [name for name, common in names.items() if common is None]
        if unwanted and not ignore:
            raise UserError(
                f"--map {file}: {raw.name} maps {', '.join(unwanted)} to null, and there is no ignore label for these voxels "
                "(they must not become background). Add --ignore."
            )
        codes = {0: 0} | {own[name]: labels["ignore" if common is None else common] for name, common in names.items()}
        if "ignore" in own:
            codes[own["ignore"]] = labels["ignore"]
        parts = {
            common: frozenset(name for name, other in names.items() if other == common)
            for common in labels
            if common in names.values()
        }
        if not parts:
            raise UserError(f"--map {file}: no class of {raw.name} is wanted. Leave the data set out of -i.")
        partial = PartialLabels.of(raw.dataset_json, raw.folder / "dataset.json")
        sources.append(Source(raw, prefix, codes, parts, carried_list(raw), partial))
    return labels, sources


def _common_names(raw: RawDataset, mapping: Mapping | None, file: Path | None) -> dict[str, str | None]:
    """Own class -> common name, None where it is not wanted."""
    own = {name: label for name, label in raw.dataset_json["labels"].items() if name != "ignore" and label != 0}
    if mapping is None:
        return {name: name for name in own}
    by_label = {str(label): name for name, label in own.items()}
    names: dict[str, str | None] = {}
    for key, common in mapping.items():
        name = by_label.get(key, key)
        if name not in own:
            allowed = ", ".join(f"{label} ({name})" for label, name in by_label.items())
            raise UserError(f"--map {file}: {raw.name} has no class '{key}'. Allowed: {allowed}.")
        if name in names:
            raise UserError(f"--map {file}: {raw.name} has '{name}' twice, by label and by name. Delete one.")
        if common is not None and (not isinstance(common, str) or common.strip() in ("", "background", "ignore")):
            raise UserError(
                f"--map {file}: {raw.name}, class '{key}' becomes {json.dumps(common)}. Allowed: a name other than background "
                "and ignore, or null."
            )
        names[name] = common
    forgotten = [name for name in own if name not in names]
    if forgotten:
        raise UserError(
            f"--map {file}: {raw.name} has {', '.join(forgotten)}, for which the map has no name. Add it, or null if the class "
            "is not wanted."
        )
    return {name: names[name] for name in own}  # in the order of dataset.json


def _prefixes(raws: Sequence[RawDataset]) -> list[str]:
    """A prefix for the case ids of each data set; none is the beginning of another."""
    for prefixes in (
        [f"{raw.name.partition('_')[2]}_" for raw in raws],
        [f"{raw.name.removeprefix('Dataset')}_" for raw in raws],
    ):
        if not any(a is not b and b.startswith(a) for a in prefixes for b in prefixes):
            return prefixes
    return [f"{raw.id}_{raw.name.partition('_')[2]}_" for raw in raws]


def _hash_patients(source: Source) -> str:
    """Of what the data set says of its patients; its splits and hidden labels are not taken over."""
    groups = {} if source.case_list is None else source.case_list.groups
    return hash_lists(source.raw, UnlabeledList(groups=groups))


def further_keys(sources: Sequence[Source]) -> tuple[dict[str, object], list[str]]:
    """Keys of the sources' dataset.json that the merged one has from them, such as licence and description.

    What all have alike stays. A text that differs, or that some have, stays with the name of its data set before it, so that a
    licence is not taken for that of all.

    Returns:
        the keys with their values, and those that the merged dataset.json cannot have: others that differ, or of files or labels.
    """
    jsons = {source.raw.name: source.raw.dataset_json for source in sources}
    kept: dict[str, object] = {}
    left_out = []
    for key in dict.fromkeys(key for content in jsons.values() for key in content):
        if key in MADE_ANEW:
            continue
        found = {name: content[key] for name, content in jsons.items() if key in content}
        first = next(iter(found.values()))
        if (
            key not in OF_FILES_OR_LABELS
            and len(found) == len(jsons)
            and all(value == first for value in found.values())
        ):
            kept[key] = first
        elif key not in OF_FILES_OR_LABELS and all(isinstance(value, str) for value in found.values()):
            kept[key] = "; ".join(f"{name}: {value}" for name, value in found.items())
        else:
            left_out.append(key)
    return kept, left_out


def make_dataset_json(name: str, labels: Mapping[str, int], sources: Sequence[Source], num_folds: int) -> dict:
    """The merged dataset.json. UserError for a case that annotates a part of a common class."""
    first = sources[0].raw.dataset_json
    entries, cases = {}, {}
    for source in sources:
        everything = list(source.parts)
        entries[source.raw.name.removeprefix("Dataset")] = {"prefix": source.prefix, "annotated": everything}
        for case in (*source.raw.labeled, *source.raw.test):
            annotated = source.annotated(case)
            if annotated != everything:
                cases[source.prefix + case] = annotated
    merged = further_keys(sources)[0] | {
        "name": name,
        "channel_names": dict(first.get("channel_names", first.get("modality"))),
        "labels": dict(labels),
        "numTraining": sum(len(source.raw.labeled) for source in sources),
        "file_ending": first["file_ending"],
        KEY: {"default": "all", "sources": entries} | ({"cases": cases} if cases else {}),
        "nnunet_ssl": {
            "merged_from": {
                source.raw.name: {str(own): label for own, label in sorted(source.codes.items())} for source in sources
            },
            "folds": num_folds,
            LABELS_HASH: {source.raw.name: hash_labels(source.raw, dense={}) for source in sources},
            LISTS_HASH: {source.raw.name: _hash_patients(source) for source in sources},
        },
    }
    if "overwrite_image_reader_writer" in first:
        merged["overwrite_image_reader_writer"] = first["overwrite_image_reader_writer"]
    return merged
