"""The console command `nnunet_ssl <subcommand>`, in the flag style of nnU-Net's own commands."""

from __future__ import annotations

import sys

from nnunet_ssl.commands import COMMANDS, load
from nnunet_ssl.commands.arguments import make_parser
from nnunet_ssl.errors import UserError


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: nnunet_ssl <subcommand> [-h] ...\n\n"
        "Semi- and weakly supervised learning for nnU-Net.\n\n"
        f"subcommands:\n{rows}\n\n"
        "Training and prediction are nnU-Net's own commands, for example\n"
        "  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerMeanTeacher"
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; the exit status: 1 for a mistake that the user can repair, 2 for an unknown subcommand."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        print(f"nnunet_ssl: unknown subcommand '{name}'. Allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = load(name)
    args = make_parser(name, module).parse_args(rest)
    try:
        return module.run(args) or 0
    except UserError as error:
        print(f"\nnnunet_ssl {name}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
