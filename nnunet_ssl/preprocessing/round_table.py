"""What a round says of its cases: which are kept, the table, and the figure of the least stable ones."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from nnunet_ssl.data.atomic import write_atomically, write_named_atomically
from nnunet_ssl.data.raw_dataset import RawDataset, read_case, read_label_map
from nnunet_ssl.predictions.selection import falling_order, largest
from nnunet_ssl.preprocessing.round_cases import CaseScores, Classes, Selection
from nnunet_ssl.preprocessing.rounds import Round, RoundCase
from nnunet_ssl.weak.contact_sheet import Side, Tile, make_tiles, write_contact_sheet

TABLE, SHEET = "cases.csv", "cases.png"
SHOWN = 6  # cases in the figure
COLUMNS = ("case", "decision", "reason", "classes", "ignored_classes")
COLUMNS += ("instability", "entropy", "entropy_foreground", "undecided")


def least_stable(scores: Mapping[str, CaseScores]) -> dict[str, float]:
    """Case -> what the cases are ordered by, largest first: the instability, of a first round the entropy of the foreground.

    Cases without such a number (new since the round before, or made elsewhere) are left out.
    """
    stable = {case: s.instability for case, s in scores.items() if s.instability is not None}
    values = stable or {case: s.entropy_foreground for case, s in scores.items() if s.entropy_foreground is not None}
    names = sorted(values)
    return {names[i]: values[names[i]] for i in falling_order([values[name] for name in names])}


def decide(scores: Mapping[str, CaseScores], selection: Selection, always_present: bool) -> dict[str, RoundCase]:
    """Keep or drop every case, with the reason.

    Args:
        always_present: every labeled case has foreground, so that a prediction without any is taken for a failure.
    """
    reasons = {}
    for case, s in scores.items():
        if not s.present and always_present:
            reasons[case] = "no foreground, which every labeled case has"
        elif s.present and set(s.failed) == s.present:
            reasons[case] = "no class passes the gate"
    order = least_stable({case: s for case, s in scores.items() if case not in reasons})
    what = "instability" if any(s.changes for s in scores.values()) else "entropy of the foreground"
    for case in largest(order, selection.drop):
        reasons[case] = f"among the largest {selection.drop:g} by {what}"
    return {
        case: RoundCase(case not in reasons, reasons.get(case, ""), s.label, s.image)
        for case, s in sorted(scores.items())
    }


def write_table(made: Round, scores: Mapping[str, CaseScores], classes: Classes) -> None:
    """`cases.csv`, a row per case; what is not known is empty."""
    names = list(classes.codes)
    of_class = [f"{what}_{name}" for what in ("voxels", "confident", "mean_probability") for name in names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *of_class])
    for case, s in sorted(scores.items()):
        record = made.cases[case]
        numbers = [s.instability, s.entropy, s.entropy_foreground, s.undecided]
        numbers += [values.get(name) for values in (s.voxels, s.confident, s.mean) for name in names]
        present = ";".join(name for name in names if name in s.present)
        row = [case, "keep" if record.keep else "drop", record.reason, present, ";".join(s.failed)]
        writer.writerow([*row, *("" if n is None else n if isinstance(n, int) else f"{n:.6g}" for n in numbers)])
    write_atomically(made.folder / TABLE, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))


def write_figure(
    made: Round, before: Round | None, scores: Mapping[str, CaseScores], classes: Classes, raw: RawDataset
) -> None:
    """`cases.png`: the least stable cases, the round before (or the image) beside this round."""
    images = {**raw.labeled, **raw.unlabeled}
    order = least_stable(scores)
    shown = [*order, *sorted(set(scores) - set(order))][:SHOWN]
    drawn = before is not None and all(before.label_file(case, raw.file_ending).is_file() for case in shown)
    old = before if drawn else None
    rows = [_tiles(case, images[case], made, old, raw) for case in shown]
    measure = "instability" if any(s.changes for s in scores.values()) else "entropy of the foreground"
    title = f"{raw.name}, {made.name}: " + (f"the cases with the largest {measure}" if order else "some cases")
    names = {code: name for code, name in classes.legend.items() if code}  # what is drawn
    names |= {made.ignore: "undecided"} if any(s.undecided for s in scores.values()) else {}
    left = Side("image" if old is None else old.name, 0, 0.45)
    write_named_atomically(
        made.folder / SHEET,
        ".png",
        lambda file: write_contact_sheet(Path(file), rows, title, names, left, Side(made.name, 0, 0.45)),
    )


def _tiles(case: str, files: list[str], made: Round, old: Round | None, raw: RawDataset) -> list[Tile]:
    image, properties = read_case(case, files, raw.reader_writer_class)
    left, right = [
        read_label_map(case, str(of.label_file(case, raw.file_ending)), raw.reader_writer_class)[0][0]
        for of in (old or made, made)
    ]
    spacing = [float(size) for size in properties["spacing"]]
    tiles = make_tiles(case, image[0], left, right, spacing, int(np.argmax(spacing)), made.ignore, {})
    if old is None:
        tiles = [dataclasses.replace(tile, before=np.zeros_like(tile.before)) for tile in tiles]
    return tiles


def summary(
    made: Round, scores: Mapping[str, CaseScores], older: Mapping[str, CaseScores], classes: Collection[str]
) -> list[str]:
    """Lines for the terminal: what is kept, and the mean voxels of each class beside those of the round before."""
    dropped = [f"{case}: {record.reason}" for case, record in made.cases.items() if not record.keep]
    lines = [f"{made.name}: {len(made.kept)} of {len(made.cases)} cases are kept", *(f"  dropped {d}" for d in dropped)]
    both = sorted(set(scores) & set(older))
    for name in classes:
        now = np.mean([s.voxels[name] for s in scores.values()])
        line = f"  {name}: {now:.0f} voxels per case"
        if both:
            then, after = (np.mean([of[case].voxels.get(name, 0) for case in both]) for of in (older, scores))
            line += f"; in the {len(both)} cases of both rounds {then:.0f} before, {after:.0f} now"
        lines.append(line)
    return lines
