"""Parsers and the arguments that several subcommands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from types import ModuleType

from nnunet_ssl.data.names import plain_name
from nnunet_ssl.errors import UserError

# option -> smallest and largest number; what a command says of its own options beyond that, it says itself
RANGES = {
    "-np": (1, 1024),
    "-npfp": (1, 1024),
    "-f": (-1, 1000),
    "--seed": (0, 2**32 - 20_000),  # numpy's, with what is added for folds
    "-gpu_memory_target": (1, 10_000),
    "--iterations": (1, 10_000),
    "--background_points": (0, 100_000),
    "--radius": (0, 100),
}
OTHERWISE = (-(2**31), 2**31 - 1)


class Parser(argparse.ArgumentParser):
    """Refuses numbers that no command can mean: not finite, or outside of `RANGES`."""

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:  # type: ignore[override]
        """Raises UserError for such a number."""
        parsed = super().parse_args(args)
        for action in self._actions:
            given = getattr(parsed, action.dest, None)
            for value in given if isinstance(given, list) else [given]:
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    option = action.option_strings[0] if action.option_strings else action.dest
                    low, high = RANGES.get(option, OTHERWISE)
                    if not (math.isfinite(value) and low <= value <= high):
                        limited = math.isfinite(value) or option in RANGES
                        allowed = f"numbers from {low} to {high}" if limited else "finite numbers"
                        raise UserError(f"{option} is {value}; allowed are {allowed}.")
        return parsed


def make_parser(name: str, module: ModuleType) -> Parser:
    """The parser of a subcommand or a converter: a module with `DESCRIPTION`, `EXAMPLE` and `add_arguments`."""
    parser = Parser(
        prog=f"nnunet_ssl {name}",
        description=module.DESCRIPTION,
        epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


# what becomes a part of a path
NAMES = {"tr": "-tr", "c": "-c", "p": "-p", "chk": "-chk", "overwrite_plans_name": "-overwrite_plans_name"}


def check_names(args: argparse.Namespace) -> None:
    """UserError for a trainer, configuration, plans or checkpoint that is no plain name."""
    for name, option in NAMES.items():
        given = getattr(args, name, None)
        for value in given if isinstance(given, list) else [given]:
            if value is not None:
                plain_name(value, option)


def add_relabeling_arguments(parser: argparse.ArgumentParser, labels: str, choice: str) -> None:
    """args.d, .o and .name of a command that makes a data set with other labels.

    Args:
        labels: what the labels of the given data set are, "dense".
        choice: what the default of the name ends with, "kind".
    """
    parser.add_argument("-d", required=True, help=f"[REQUIRED] id or name of the data set with {labels} labels")
    parser.add_argument("-o", type=int, required=True, metavar="ID", help="[REQUIRED] id of the data set to be made")
    parser.add_argument(
        "-name", help=f"[OPTIONAL] its name after DatasetXXX_. Default: the name of -d and the {choice}"
    )


def add_writing_arguments(parser: argparse.ArgumentParser, links: bool = False) -> None:
    """args.np and .overwrite of a command that makes a data set; args.copy where `links` are made otherwise."""
    parser.add_argument("-np", type=int, default=8, metavar="N", help="[OPTIONAL] number of processes. Default: 8")
    if links:
        parser.add_argument(
            "--copy",
            action="store_true",
            help="[OPTIONAL] copy images and dense labels. Default: hard links, which need no space and are independent names "
            "of the same file",
        )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="[OPTIONAL] replace an existing data set of this id and name, once the new one is complete",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """args.trust of a command that reads trained models."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="[OPTIONAL] also read checkpoints, plans and preprocessed cases that name other code than nnU-Net's, and so execute "
        "it (docs/security.md)",
    )


def add_preprocessing_arguments(parser: argparse.ArgumentParser) -> None:
    """args.overwrite (of the splits), .verbose and .no_pbar of a command that preprocesses."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="[OPTIONAL] replace a different splits_final.json in nnUNet_preprocessed by that of the raw data set "
        "(a copy is kept)",
    )
    parser.add_argument("--verbose", action="store_true", help="[OPTIONAL] print what nnU-Net does")
    parser.add_argument("--no_pbar", action="store_true", help="[OPTIONAL] no progress bars")
