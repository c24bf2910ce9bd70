"""The console command `nnunet_ssl <subcommand>`, in the flag style of nnU-Net's own commands.

A subcommand is a module with `add_arguments(parser)`, `run(args)` and the strings `DESCRIPTION` and `EXAMPLE`. Only the
module of the subcommand that is called gets imported, so that `nnunet_ssl -h` does not wait for torch.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from nnunet_ssl.errors import UserError

COMMANDS: dict[str, tuple[str, str]] = {
    "convert": (
        "nnunet_ssl.commands.convert",
        "bring LA, ACDC, BraTS, MSCMR or your scribbles into nnU-Net raw format",
    ),
    "plan_and_preprocess": (
        "nnunet_ssl.commands.plan_and_preprocess",
        "nnU-Net's planning, then also the unlabeled images",
    ),
    "preprocess_unlabeled": (
        "nnunet_ssl.commands.preprocess_unlabeled",
        "only the unlabeled images, with existing plans",
    ),
    "merge": (
        "nnunet_ssl.commands.merge",
        "one data set with partial labels from several with different classes",
    ),
    "split": ("nnunet_ssl.commands.split", "write splits_final.json for a budget of labels"),
    "weaken": (
        "nnunet_ssl.commands.weaken",
        "make scribbles, points, boxes, single slices or partial labels from dense ones",
    ),
    "expand": ("nnunet_ssl.commands.expand", "grow scribbles or points into denser labels, before training"),
    "check": ("nnunet_ssl.commands.check", "counts, leaks between unlabeled and test cases, duplicates, outliers"),
    "compare": ("nnunet_ssl.commands.compare", "compare trainers case by case, with paired tests"),
    "export": ("nnunet_ssl.commands.export", "write a model that nnU-Net predicts with without this package"),
    "trainers": ("nnunet_ssl.commands.trainers", "list the trainers"),
    "trainers_path": ("nnunet_ssl.commands.trainers_path", "print the folder for nnUNet_extTrainer"),
    "demo": ("nnunet_ssl.commands.demo", "everything once, in minutes, on phantoms or on your copy of LA"),
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: nnunet_ssl <subcommand> [-h] ...\n\n"
        "Semi- and weakly supervised learning for nnU-Net.\n\n"
        f"subcommands:\n{rows}\n\n"
        "Training and prediction are nnU-Net's own commands, for example\n"
        "  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerMeanTeacher"
    )


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        print(f"nnunet_ssl: unknown subcommand '{name}'. Allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(
        prog=f"nnunet_ssl {name}",
        description=module.DESCRIPTION,
        epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    try:
        return module.run(args) or 0
    except UserError as error:
        print(f"\nnnunet_ssl {name}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
