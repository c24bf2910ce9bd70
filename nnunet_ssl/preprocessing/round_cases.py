"""One case of a round of pseudo labels: from a prediction, or a label map made elsewhere, to the label file and its numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nnunet_ssl.data.atomic import remove_unfinished, write_json_atomically, write_named_atomically
from nnunet_ssl.data.files import file_hash, stream_damage
from nnunet_ssl.data.geometry import label_endings
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.label_values import label_values
from nnunet_ssl.data.raw_dataset import read_label_map
from nnunet_ssl.errors import UserError
from nnunet_ssl.predictions.entropy_filter import case_entropy
from nnunet_ssl.predictions.selection import (
    changed_share,
    class_confidence,
    foreground_entropy,
    instability,
    passes_gate,
    predicted_foreground,
    uncertain_voxels,
)
from nnunet_ssl.preprocessing.rounds import Round


@dataclass(frozen=True)
class Classes:
    """The foreground of a data set: classes, or the regions of region-based data, in the order of the network's channels.

    Attributes:
        codes: name -> labels in label maps; several of a region.
        legend: code -> name, background included.
        activation: "softmax", or "sigmoid" for regions.
    """

    codes: dict[str, tuple[int, ...]]
    legend: dict[int, str]
    activation: str

    @classmethod
    def of(cls, dataset_json: dict) -> Classes:
        labels = {n: value for n, value in label_values(dataset_json).items() if n not in ("background", "ignore")}
        codes = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in labels.items()}
        if any(len(of_name) > 1 for of_name in codes.values()):
            written = zip(dataset_json["regions_class_order"], codes)
            return cls(codes, {0: "background"} | {int(code): name for code, name in written}, "sigmoid")
        codes = dict(sorted(codes.items(), key=lambda item: item[1]))
        return cls(codes, {0: "background"} | {code: name for name, (code,) in codes.items()}, "softmax")

    def voxels(self, labels: np.ndarray) -> dict[str, int]:
        """Voxels of each class or region in a label map."""
        numbers = np.bincount(labels.ravel())
        return {name: int(sum(numbers[c] for c in own if c < len(numbers))) for name, own in self.codes.items()}


@dataclass(frozen=True)
class Selection:
    """Which pseudo labels count.

    Attributes:
        min_confidence: voxels with a smaller probability of their class have no decision; 0: all have one.
        gate: smallest confident share of a class in a case, below which its voxels there have no decision; 0: no gate.
        drop: share of the cases that is left out, the least stable first.
        previous: round to compare with.
    """

    min_confidence: float = 0.0
    gate: float = 0.0
    drop: float = 0.0
    previous: str | None = None

    def __post_init__(self) -> None:
        options = {"--min_confidence": self.min_confidence, "--gate": self.gate, "--drop": self.drop}
        for option, value in options.items():
            if not 0 <= value < 1:
                raise UserError(f"{option} {value:g}: allowed are numbers from 0 to below 1.")


@dataclass
class CaseScores:
    """What is known of a finished case; probabilities are unknown of label maps made elsewhere.

    Attributes:
        image, label: hash of the image and of the label file.
        source: hash of the label map that was made elsewhere, "" of a prediction.
        voxels: of each class or region, before any lost its decision.
        changes: share of changed voxels between rounds, the first rounds first.
        compared: hash of the label file of the round before; "" without one, or not kept.
        undecided: share of the image's voxels.
        failed: classes that did not pass the gate.
        confident, mean: of each class, see `Confidence`.
        entropy, entropy_foreground: in nats, means over the image and over the predicted foreground.
    """

    image: str
    label: str
    voxels: dict[str, int]
    source: str = ""
    changes: list[float] = field(default_factory=list)
    compared: str = ""
    undecided: float = 0.0
    failed: list[str] = field(default_factory=list)
    confident: dict[str, float] = field(default_factory=dict)
    mean: dict[str, float] = field(default_factory=dict)
    entropy: float | None = None
    entropy_foreground: float | None = None

    @property
    def instability(self) -> float | None:
        return instability(self.changes) if self.changes else None

    def follows(self, older: CaseScores | None) -> bool:
        """Whether the changes are those since `older`, the case in the round before (None: not there) as it is now."""
        if older is None:
            return True
        return bool(self.changes) and self.changes[:-1] == older.changes and self.compared in ("", older.label)

    @property
    def present(self) -> set[str]:
        return {name for name, voxels in self.voxels.items() if voxels}


def scores_file(made: Round, case: str) -> Path:
    return made.folder / "scores" / f"{case}.json"


def load_scores(made: Round, case: str, image: str, ending: str) -> CaseScores | None:
    """Scores of a case that is finished and belongs to this image, else None."""
    label = made.label_file(case, ending)
    try:
        scores = CaseScores(**read_json(scores_file(made, case)))
    except (UserError, TypeError):
        return None
    current = label.is_file() and scores.image == image and scores.label == file_hash(label)
    return scores if current else None


@dataclass(frozen=True)
class CaseWriter:
    """Writes the cases of a round; can be pickled.

    Attributes:
        images: case -> hash of its image.
        before: the round to compare with.
    """

    made: Round
    before: Round | None
    classes: Classes
    selection: Selection
    images: Mapping[str, str]
    ending: str
    reader_writer_class: type
    save_probabilities: bool = False

    def prediction(self, case: str, labels: np.ndarray, probabilities: np.ndarray, properties: dict) -> CaseScores:
        """Score and write a predicted case.

        Args:
            labels: `(*spatial)`, as nnU-Net writes it.
            probabilities: `(C, *spatial)` of classes, background first, or of regions.
        """
        activation = self.classes.activation
        found = class_confidence(probabilities, activation)
        scores = self._scores(case, labels)
        names = list(self.classes.codes)
        scores.confident = dict(zip(names, map(float, found.share), strict=True))
        scores.mean = dict(zip(names, map(float, found.mean), strict=True))
        scores.entropy = case_entropy(probabilities, activation)
        scores.entropy_foreground = foreground_entropy(probabilities, activation)
        undecided = uncertain_voxels(probabilities, self.selection.min_confidence, activation)
        if self.selection.gate > 0:
            failed = (found.voxels > 0) & ~passes_gate(found.share, self.selection.gate)
            scores.failed = [name for name, fails in zip(names, failed, strict=True) if fails]
            undecided |= predicted_foreground(probabilities, activation)[failed].any(0)
        if self.save_probabilities:
            file = self.made.folder / "probabilities" / f"{case}.npz"
            _write_file(file, ".npz", lambda f: np.savez_compressed(f, probabilities=probabilities))
        labels = labels.astype(self._dtype)
        labels[undecided] = self.made.ignore
        return self._write(case, scores, labels, properties)

    def label_map(self, case: str, labels: np.ndarray, properties: dict, source: str) -> CaseScores:
        """Score and write a label map `(*spatial)` of the hash `source`, made elsewhere; it may have undecided voxels."""
        scores = self._scores(case, labels)
        scores.source = source
        return self._write(case, scores, labels, properties)

    def _scores(self, case: str, labels: np.ndarray) -> CaseScores:
        scores = CaseScores(self.images[case], "", self.classes.voxels(labels))
        older = None if self.before is None else load_scores(self.before, case, self.images[case], self.ending)
        if older is not None:
            file = self.before.label_file(case, self.ending)
            previous = read_label_map(case, str(file), self.reader_writer_class)[0][0]
            ignore = (self.before.ignore, self.made.ignore)
            scores.changes = [*older.changes, changed_share(previous, labels, ignore)]
            scores.compared = older.label
        return scores

    def _write(self, case: str, scores: CaseScores, labels: np.ndarray, properties: dict) -> CaseScores:
        scores.undecided = float(np.mean(labels == self.made.ignore))
        file, writer = self.made.label_file(case, self.ending), self.reader_writer_class()
        _write_file(
            file, self.ending, lambda f: writer.write_seg(labels.astype(self._dtype, copy=False), f, properties)
        )
        scores.label = file_hash(file)
        scores_file(self.made, case).parent.mkdir(exist_ok=True)
        write_json_atomically(asdict(scores), scores_file(self.made, case))  # last: the case is finished
        return scores

    @property
    def _dtype(self) -> type:
        return np.uint8 if self.made.ignore < 256 else np.uint16


def _write_file(file: Path, ending: str, write: Callable[[str], object]) -> None:
    """Write and look at the result. UserError, with the space that is left, where it could not be written completely."""

    def write_and_look(name: str) -> None:
        write(name)
        if (damage := stream_damage(name)) is not None:
            raise OSError(damage)  # SimpleITK says nothing of a file that it could not write completely

    file.parent.mkdir(exist_ok=True)
    try:
        write_named_atomically(file, ending, write_and_look)
    except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeErrors
        free = shutil.disk_usage(file.parent).free // 1024**2
        raise UserError(
            f"{file} cannot be written ({str(error).strip()}); {free} MiB are free there. Free some space and run the command "
            "again; what is finished is kept."
        ) from error


def remove_cases(made: Round, keep: Collection[str], cases: Collection[str], ending: str) -> list[str]:
    """Delete the files of cases that are to be done again or are gone, and what a killed run left half written.

    Only what this command wrote: files of `cases` and of those that have scores. Other files stay.

    Returns:
        the cases whose files went.
    """
    scored = {file.stem for file in (made.folder / "scores").glob("*.json")}
    ours, gone = (set(cases) | scored) - set(keep), set()
    of_labels = [("labels", of_label) for of_label in label_endings(ending)]
    for folder, of_folder in (("scores", ".json"), *of_labels, ("probabilities", ".npz")):
        for case in sorted(ours):
            file = made.folder / folder / f"{case}{of_folder}"
            if file.is_file():
                file.unlink()
                gone.add(case)
        remove_unfinished(made.folder / folder)
    return sorted(gone)
