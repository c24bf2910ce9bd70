"""The console command `nnunet_ssl <subcommand>`, in the flag style of nnU-Net's own commands."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator

from nnunet_ssl.commands import COMMANDS, load
from nnunet_ssl.commands.arguments import check_names, make_parser
from nnunet_ssl.commands.outputs import outputs
from nnunet_ssl.data.locks import only_writer
from nnunet_ssl.errors import UserError


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: nnunet_ssl <subcommand> [-h] ...\n\n"
        "Semi- and weakly supervised learning for nnU-Net.\n\n"
        f"subcommands:\n{rows}\n\n"
        "--debug after a subcommand shows where in the program an error arose.\n\n"
        "Training and prediction are nnU-Net's own commands, for example\n"
        "  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerMeanTeacher"
    )


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is treated as Ctrl-C: what is open is closed, what is half written goes."""


def _raise_terminated(*_: object) -> None:
    raise Terminated


def _mask_sigterm(how: int) -> None:
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:
        signal.pthread_sigmask(how, {signal.SIGTERM})


def _die_of_sigterm() -> None:
    """In a forked worker: its pool ends it with this signal, wherever it hangs."""
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if hasattr(os, "register_at_fork"):
    # held back during the fork: a worker that is ended before it has got so far would lose the signal, and its pool wait for ever
    os.register_at_fork(
        before=lambda: _mask_sigterm(signal.SIG_BLOCK),
        after_in_parent=lambda: _mask_sigterm(signal.SIG_UNBLOCK),
        after_in_child=_die_of_sigterm,
    )


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sentence(error: BaseException) -> str:
    """What to say of an error of the system, with its file."""
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        return f"{file}{error.strerror}. Check that it is there, that you may read and write it, and that the disk has space."
    if isinstance(error, MemoryError):
        return "there is not enough memory. Give fewer processes (-np), or use a machine with more."
    if isinstance(error, UnicodeError):
        return f"a name or a text is not in UTF-8 ({error}). Rename the file, or save it in UTF-8."
    return f"a file cannot be read: it is damaged or of another kind ({error}). Restore it."


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; the exit status.

    1: a mistake that the user can repair, or an error of the system, in one sentence; 2: an unknown subcommand; 130, 143:
    interrupted by Ctrl-C or SIGTERM. Any other exception is a fault of this package and keeps its traceback; with `--debug` all do.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        print(f"nnunet_ssl: unknown subcommand '{name}'. Allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = load(name)
    debug = "--debug" in rest
    args = make_parser(name, module).parse_args([word for word in rest if word != "--debug"])
    try:
        check_names(args)
        with _terminated_like_interrupted(), only_writer(*outputs(name, args)):
            return module.run(args) or 0
    except KeyboardInterrupt as error:
        print(f"\nnnunet_ssl {name}: interrupted.", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    except UserError as error:
        if debug:
            raise
        message = str(error)
    except (OSError, MemoryError, UnicodeError, pickle.UnpicklingError, EOFError) as error:
        if debug:
            raise
        message = _sentence(error)
    print(f"\nnnunet_ssl {name}: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
