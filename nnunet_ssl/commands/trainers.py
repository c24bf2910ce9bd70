"""`nnunet_ssl trainers`: what can be given to `-tr`."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_ssl.discovery.listing import TrainerFacts

DESCRIPTION = (
    "List the trainers of this package by the labels that they are for, with the networks that a step holds, its passes, what is "
    "supported, and where the method was published. Each also exists with the suffixes _<N>epochs, "
    "_<M>iters (iterations per epoch) and _seed<S>, in this order; so does nnU-Net's own nnUNetTrainer, and so do subclasses "
    "that you keep in a folder of nnUNet_extTrainer."
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
    from nnunet_ssl.discovery.listing import KINDS, attribute_rows, trainer_facts

    if args.attributes:
        rows = attribute_rows(args.attributes)
        width = max(len(name) for name, _ in rows)
        print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
        return
    facts = trainer_facts()
    blocks = ["\n".join([text, *(_described(f) for f in facts if f.kind == kind)]) for kind, text in KINDS.items()]
    print("\n\n".join(blocks))


def _described(facts: TrainerFacts) -> str:
    """The lines of one trainer."""
    lines = {
        "networks": ", ".join(facts.networks),
        "passes per step": facts.passes.rstrip("."),
        "supports": ", ".join(facts.supports),
        "source": facts.citation,
    }
    wrapped = [
        textwrap.fill(f"{name}: {text}", 120, initial_indent=" " * 6, subsequent_indent=" " * 8, break_on_hyphens=False)
        for name, text in lines.items()
    ]
    return "\n".join([f"  {facts.name}  {facts.idea}", *wrapped])
