"""What `nnunet_ssl check` has found, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass
class Pair:
    """Two images that look alike; `crosses` names the line between training and evaluation that they are on."""

    case: str
    other: str
    correlation: float
    detail: float
    crosses: str = ""


@dataclass
class Report:
    """Everything that `check` found; `leaks` are what makes it fail."""

    dataset: str
    counts: dict[str, int] = field(default_factory=dict)
    patients: dict[str, int] = field(default_factory=dict)
    folds: list[dict] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    near_duplicates: list[Pair] = field(default_factory=list)
    possible_repeat_scans: list[Pair] = field(default_factory=list)
    alike_within_patients: int = 0
    equal_labels: list[dict[str, str]] = field(default_factory=list)
    outliers: list[str] = field(default_factory=list)


def print_report(report: Report, threshold: float) -> None:
    """Tables of cases and folds, then what was found, leaks last. `threshold`: from which images are near-duplicates."""
    print(f"\n{report.dataset}")
    _print_table([{"folder": f, "cases": n, "patients": report.patients[f]} for f, n in report.counts.items()])
    if report.folds:
        _print_table(report.folds)
    print(
        f"Near-duplicates of different patients (aligned correlation >= {threshold:g}): {len(report.near_duplicates)}. "
        f"Pairs of one patient that look alike, as expected: {report.alike_within_patients}."
    )
    if report.near_duplicates:
        _print_table([asdict(pair) for pair in report.near_duplicates])
    if report.possible_repeat_scans:
        print("Less alike, but equal in fine structure (may be scans of one patient; name them in `groups` if so):")
        _print_table([asdict(pair) for pair in report.possible_repeat_scans])
    if report.equal_labels:
        print("Equal label maps, cut to their box:")
        _print_table(report.equal_labels)
    for title, lines in (
        ("Unusual geometry", report.outliers),
        ("Notes", report.notes),
        ("Warnings", report.warnings),
        ("LEAKS", report.leaks),
    ):
        if lines:
            print(f"{title} ({len(lines)}):")
            print("\n".join(f"  {line}" for line in lines))
    print("No leak found." if not report.leaks else f"{len(report.leaks)} leak(s) found.")


def _print_table(rows: Sequence[dict]) -> None:
    header = list(rows[0])
    table = [header, *[[str(row[key]) for key in header] for row in rows]]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    print()
    for line in table:
        print("  " + "  ".join(f"{text:<{width}}" for text, width in zip(line, widths)).rstrip())
    print()
