"""`nnunet_ssl trainers`: what can be given to `-tr`."""

from __future__ import annotations

import argparse

DESCRIPTION = (
    "List the trainers of this package by the labels that they are for. Each also exists with the suffixes _<N>epochs, "
    "_<M>iters (iterations per epoch) and _seed<S>, in this order; so does nnU-Net's own nnUNetTrainer."
)
EXAMPLE = """example:
  nnunet_ssl trainers
  nnunet_ssl trainers --attributes nnUNetTrainerMeanTeacher
  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerMeanTeacher_100epochs_seed2"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attributes",
        metavar="NAME",
        help="[OPTIONAL] Print the hyper-parameters of this trainer and their values: what a subclass may set.",
    )


def run(args: argparse.Namespace) -> None:
    from nnunet_ssl.discovery.listing import attribute_rows, trainer_rows

    if args.attributes:
        print(_table(attribute_rows(args.attributes)))
        return
    kinds = trainer_rows()
    width = max(len(name) for rows in kinds.values() for name, _ in rows)
    print("\n\n".join(f"{kind}\n{_table(rows, '  ', width)}" for kind, rows in kinds.items()))


def _table(rows: list[tuple[str, str]], indent: str = "", width: int = 0) -> str:
    width = max([width, *(len(name) for name, _ in rows)])
    return "\n".join(f"{indent}{name:<{width}}  {text}" for name, text in rows)
