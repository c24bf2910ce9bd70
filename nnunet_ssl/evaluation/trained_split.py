"""The split that a finished training used, and whether two runs used the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.listing import files_with_ending
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE_NAME
from nnunet_ssl.data.splits import load_splits, split_hash
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.evaluation.runs import SHOWN, Experiment, Fold, Run, Split


@dataclass(frozen=True)
class FoldSplit:
    """What is known about the split of one fold. `evidence`: trainer -> what of it was verified."""

    split: Split | None
    evidence: dict[str, str]
    notes: tuple[str, ...]

    @property
    def short_hash(self) -> str:
        return split_hash(self.split)[:12] if self.split else "unknown"


def verify_split(experiment: Experiment, fold: Fold, runs: Sequence[Run], file_ending: str) -> FoldSplit:
    """Prove as far as the folders allow that the runs of one fold share one split, namely that of `splits_final.json`.

    Trainers of this package record their cases. Of a stock run the validation cases are known from its `validation` folder
    and the numbers of cases from its log.

    Raises:
        UserError: naming the trainers, the fold and what differs.
    """
    present = _present_split(experiment, fold)
    known: dict[str, tuple[object, str]] = {}  # what is compared -> (value, where it was found first)
    notes, differences, evidence = [], [], {}
    if present:
        _learn(known, {"train": set(present["train"]), "val": set(present["val"])}, SPLITS_FILE_NAME)
    elif fold != "all":
        notes.append(
            f"{SPLITS_FILE_NAME} was not found in nnUNet_preprocessed: runs were compared with each other only."
        )
    for run in runs:
        checked = []
        for source, claim in _claims(run, file_ending):
            found = _learn(known, claim, f"{run.trainer} ({source})")
            differences += [f"{run.trainer}, {source}: {text}" for text in found]
            checked.append(source)
        evidence[run.trainer] = ", ".join(checked) or "nothing on record"
    if differences:
        agreeing = [run.trainer for run in runs if not any(line.startswith(f"{run.trainer}, ") for line in differences)]
        lines = "\n".join(f"  - {line}" for line in differences)
        commands = "\n".join(
            f"  {experiment.train_command(run.trainer, fold)}" for run in runs if run.trainer not in agreeing
        )
        raise UserError(
            f"The runs of fold {fold} do not share one split, so their results cannot be compared "
            f"({', '.join(run.trainer for run in runs)}):\n{lines}\n"
            + (f"No difference was found for {', '.join(agreeing)}. " if agreeing else "")
            + f"Train again with the present split (delete an old `validation` folder first), or put the "
            f"{SPLITS_FILE_NAME} back with which the runs were trained:\n{commands}"
        )
    if present and (unsure := [run.trainer for run in runs if not run.splits]):
        notes += [
            f"Fold {fold}: {', '.join(unsure)} recorded how many cases they were trained on, not which. {file} has as many, the "
            "same validation cases and other training cases; if a training is older than the present split, it may be of that one."
            for file in _replaced_splits(experiment, fold, present)
        ]
    split = present or next((run.split for run in runs if run.split), None)
    if split is None and fold == "all" and "val" in known:
        split = {"train": sorted(known["val"][0]), "val": sorted(known["val"][0])}
    overlap = set(split["train"]) & set(split["val"]) if split else set()
    if overlap:
        notes.append(
            f"Fold {fold}: {len(overlap)} of {len(set(split['val']))} validation cases are training cases. Results on them "
            "do not measure generalization; --test compares on the test cases."
        )
    return FoldSplit(split, evidence, tuple(notes))


def _present_split(experiment: Experiment, fold: Fold) -> Split | None:
    """The fold in `splits_final.json`; None for fold `all` or without preprocessed data."""
    from nnunetv2.paths import nnUNet_preprocessed

    if fold == "all" or not nnUNet_preprocessed.is_set():
        return None
    file = nnunet_folder("nnUNet_preprocessed") / experiment.dataset / SPLITS_FILE_NAME
    if not file.is_file():
        return None
    splits = load_splits(file)
    if fold >= len(splits):
        raise UserError(
            f"{file} holds the folds 0 to {len(splits) - 1}, not fold {fold}. nnU-Net trains such a fold on a random split "
            "that is written nowhere, so it cannot be compared. Use a fold of the file, or write it with `nnunet_ssl split`."
        )
    return splits[fold]


def _replaced_splits(experiment: Experiment, fold: int | str, present: Split) -> list[str]:
    """Names of the copies that `nnunet_ssl split --overwrite` has kept in which a stock run's record would be the same."""
    folder, found = nnunet_folder("nnUNet_preprocessed") / experiment.dataset, []
    for file in sorted(folder.glob(f"{SPLITS_FILE_NAME}.*.bak")):
        try:
            splits = load_splits(file)
        except UserError:
            continue  # no split can have been trained with it
        before = splits[int(fold)] if int(fold) < len(splits) else None
        if before is None or set(before["val"]) != set(present["val"]):
            continue
        one, other = set(before["train"]), set(present["train"])
        found += [file.name] if one != other and len(one) == len(other) else []
    return found


def _claims(run: Run, file_ending: str) -> list[tuple[str, dict[str, object]]]:
    """What the folder of a run says about its split: (source, {"train"/"val": cases, "n_train"/"n_val": number})."""
    claims: list[tuple[str, dict[str, object]]] = []
    for source, split in run.splits.items():
        claims.append((source, {side: set(split[side]) for side in ("train", "val")}))
    if (run.folder / "validation" / "summary.json").is_file():
        claims.append(("validation cases", {"val": set(files_with_ending(run.folder / "validation", file_ending))}))
    if not run.split:
        counts = sorted(set(run.logged_counts))
        claims += [("numbers of cases in the log", {"n_train": train, "n_val": val}) for train, val in counts]
    return claims


def _learn(known: dict[str, tuple[object, str]], claim: dict[str, object], source: str) -> list[str]:
    """Add a claim to what is known, in place, and say where it contradicts."""
    differences = []
    claim = claim | {f"n_{side}": len(claim[side]) for side in ("train", "val") if side in claim}
    for side, name in (("train", "training"), ("val", "validation")):
        if side in claim and side in known:
            value, origin = known[side]
            extra, missing = sorted(claim[side] - value), sorted(value - claim[side])
            parts = [f"{len(extra)} more ({some(extra, SHOWN)})"] if extra else []
            parts += [f"{len(missing)} missing ({some(missing, SHOWN)})"] if missing else []
            if parts:
                differences.append(f"{name} cases differ from {origin}: {', '.join(parts)}")
        elif f"n_{side}" in claim and f"n_{side}" in known:
            value, origin = known[f"n_{side}"]
            if claim[f"n_{side}"] != value:
                differences.append(f"{claim[f'n_{side}']} {name} cases, {value} in {origin}")
    for key, value in claim.items():
        known.setdefault(key, (value, source))
    return differences
