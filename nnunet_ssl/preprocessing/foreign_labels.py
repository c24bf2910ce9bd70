"""Label maps of unlabeled images that were made elsewhere (a foundation model, another tool), taken as pseudo labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ssl.data.files import file_hash
from nnunet_ssl.data.geometry import has_spacing
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.label_values import label_values
from nnunet_ssl.data.listing import files_with_ending, refuse_other_endings
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import read_case, read_label_map
from nnunet_ssl.data.texts import whole_number
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.preprocessing.round_cases import CaseScores, CaseWriter
from nnunet_ssl.preprocessing.rounds import uncertain_code

OTHER = "other"  # key of a map: every number that it does not name
TOLERANCE = 1e-3  # mm, and of the direction's numbers


@dataclass(frozen=True)
class CodeMap:
    """Numbers of foreign label maps -> numbers of the data set. `other`: of those not named; None: such a number is an error."""

    codes: dict[int, int]
    other: int | None = None

    @classmethod
    def of(cls, words: Sequence[str] | None, dataset_json: dict) -> CodeMap:
        """From `--map`: one json file, or pairs such as `5=liver 6=2 other=background`. None: numbers stay as they are.

        Raises:
            UserError: not a map, a number that is none, or a class that the data set does not have.
        """
        labels = label_values(dataset_json)
        names = {name: value for name, value in labels.items() if isinstance(value, int)}
        allowed = set(names.values()) | {code for value in labels.values() if isinstance(value, list) for code in value}
        names["ignore"] = uncertain_code(dataset_json)
        if words is None:
            return cls({code: code for code in sorted(allowed)})
        codes, other, named = {0: 0}, None, set()
        for key, value in _pairs(words):
            target = names.get(str(value), whole_number(str(value)))
            named_class = str(value) in names  # 'ignore' too, whose number dataset.json need not have
            if not named_class and target not in allowed:
                raise UserError(
                    f"--map {key}={value}: allowed after '=' are {', '.join(names)} and the numbers "
                    f"{', '.join(map(str, sorted(allowed)))} of dataset.json ('ignore': no decision). Correct it."
                )
            code = OTHER if key == OTHER else whole_number(key)
            if code in named:
                raise UserError(f"--map names {code} twice. Give each number once.")
            named.add(code)
            if code == OTHER:
                other = target
            elif code is not None:
                codes[code] = target
            else:
                raise UserError(f"--map {key}={value}: allowed before '=' are whole numbers and '{OTHER}'. Correct it.")
        return cls(codes, other)

    def settings(self) -> dict:
        return {"codes": {str(k): v for k, v in sorted(self.codes.items())}, "other": self.other}

    def apply(self, labels: np.ndarray, file: str) -> np.ndarray:
        """The label map with the data set's numbers. UserError where it holds others than the map names."""
        found, inverse = np.unique(labels, return_inverse=True)
        unknown = [f"{value:g}" for value in found if value not in self.codes]
        if unknown and self.other is None:
            raise UserError(
                f"{file}: holds {some(unknown, 5)}; allowed are {', '.join(map(str, sorted(self.codes)))}. Name these numbers with "
                f"--map {unknown[0]}=CLASS, or all others with --map {OTHER}=background."
            )
        new = np.array([self.codes.get(value, self.other) for value in found])
        return new[inverse].reshape(labels.shape)


def _pairs(words: Sequence[str]) -> list[tuple[str, object]]:
    if len(words) == 1 and "=" not in words[0]:
        pairs = 'Allowed after --map: a json file such as {"5": "liver"}, or pairs such as 5=liver 6=kidney.'
        return list(read_json(words[0], remedy=pairs).items())
    for word in words:
        if word.count("=") != 1:
            raise UserError(f"--map {word}: allowed are pairs NUMBER=CLASS, such as 5=liver, or one json file.")
    return [tuple(word.split("=")) for word in words]  # type: ignore[misc]


def find_label_maps(folder: Path, ending: str, cases: Sequence[str]) -> dict[str, str]:
    """Case -> its label map in the folder, for the unlabeled cases that have one.

    Raises:
        UserError: the folder is missing or holds none, or label maps that belong to no unlabeled case (test cases, for example).
    """
    refuse_other_endings(folder, "CASE", [ending])
    files = {name: str(file) for name, file in files_with_ending(folder, ending).items()}
    if not files:
        raise UserError(
            f"--from {folder}: holds no label map *{ending}. Name them CASE{ending} after the unlabeled cases, such as "
            f"{some(cases, 3)}."
        )
    unknown = sorted(set(files) - set(cases))
    if unknown:
        raise UserError(
            f"--from {folder}: {some(unknown, 5)} is (are) not unlabeled: a labeled, validation or test case, or no case of the "
            f"data set. Allowed are the {len(cases)} unlabeled cases, such as {some(cases, 3)}. Take the others out of the folder."
        )
    return files


def settings_of(folder: Path, code_map: CodeMap) -> dict:
    return {"from": str(folder.resolve()), "map": code_map.settings()}


def check_label_maps(
    files: Mapping[str, str],
    images: Mapping[str, Sequence[str]],
    code_map: CodeMap,
    reader_writer_class: type,
    num_processes: int,
    show_progress: bool,
) -> None:
    """Read label maps before anything is written.

    Args:
        files: case -> label map.
        images: case -> channel files.

    Raises:
        UserError: files that cannot be read or do not fit their image or the map; all are named.
    """
    jobs = [(case, files[case], list(images[case]), code_map, reader_writer_class) for case in sorted(files)]
    found = run_in_processes(_fault, jobs, num_processes, "Checking label maps", show_progress, "nothing was written")
    if problems := sorted(problem for _, problem in found if problem):
        raise UserError("\n".join(problems))


def take_label_maps(
    writer: CaseWriter,
    files: Mapping[str, str],
    images: Mapping[str, Sequence[str]],
    code_map: CodeMap,
    num_processes: int,
    show_progress: bool,
) -> Iterator[tuple[str, CaseScores]]:
    """Write label maps that `check_label_maps` has passed; yields a case and its scores. Arguments as there."""
    names = sorted(files)
    jobs = [(writer, case, files[case], list(images[case]), code_map) for case in names]
    for index, scores in run_in_processes(_take, jobs, num_processes, "Label maps", show_progress):
        yield names[index], scores


def _take(writer: CaseWriter, case: str, file: str, images: list[str], code_map: CodeMap) -> CaseScores:
    labels, properties = _read(case, file, images, code_map, writer.reader_writer_class)
    return writer.label_map(case, labels, properties, file_hash(file))


def _fault(case: str, file: str, images: list[str], code_map: CodeMap, reader_writer_class: type) -> str:
    """What is wrong, or ""."""
    try:
        _read(case, file, images, code_map, reader_writer_class)
    except UserError as error:
        return str(error)
    return ""


def _read(
    case: str, file: str, images: list[str], code_map: CodeMap, reader_writer_class: type
) -> tuple[np.ndarray, dict]:
    """The label map `(*spatial)` in the data set's numbers, and the properties of its image."""
    image, properties = read_case(case, images, reader_writer_class)
    labels, own = read_label_map(case, file, reader_writer_class)
    if not has_spacing(file, reader_writer_class):
        own |= {"spacing": properties["spacing"]}
    if labels.shape[1:] != image.shape[1:]:
        raise UserError(f"{file}: shape {labels.shape[1:]}, but {images[0]} has {image.shape[1:]}. Resample it.")
    for what, found, expected in _geometry(own, properties):
        if len(found) != len(expected) or not np.allclose(found, expected, atol=TOLERANCE):
            raise UserError(
                f"{file}: {what} {_numbers(found)}, but {images[0]} has {_numbers(expected)}. Resample it to the image."
            )
    return code_map.apply(labels[0], file), properties


def _geometry(label: dict, image: dict) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, value of the label map and of the image: whatever nnU-Net's reader gives of the position in space."""
    yield "spacing", np.ravel(label["spacing"]), np.ravel(image["spacing"])
    for of_reader in ("sitk_stuff", "nibabel_stuff"):
        for name, value in image.get(of_reader, {}).items():
            found = label.get(of_reader, {}).get(name)
            yield name, np.ravel(found if found is not None else []), np.ravel(value)


def _numbers(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
