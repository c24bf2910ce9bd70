"""The console command `nnunet_ssl <subcommand>`, in the flag style of nnU-Net's own commands."""

from __future__ import annotations

import contextlib
import linecache
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from nnunet_ssl import __version__
from nnunet_ssl.commands import COMMANDS, load
from nnunet_ssl.commands.arguments import check_names, make_parser
from nnunet_ssl.commands.outputs import outputs
from nnunet_ssl.data.locks import only_writer
from nnunet_ssl.errors import UserError


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: nnunet_ssl <subcommand> [-h] ...\n       nnunet_ssl --version\n\n"
        "Semi- and weakly supervised learning for nnU-Net.\n\n"
        f"subcommands:\n{rows}\n\n"
        "--debug after a subcommand shows where in the program an error arose.\n\n"
        "Training and prediction are nnU-Net's own commands, for example\n"
        "  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerSemiSupervised"
    )


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is treated as Ctrl-C: what is open is closed, what is half written goes."""


GRACE = 20.0
"""Seconds that a command has after SIGTERM to clear up."""
_clearing_up: list[threading.Timer] = []


def _raise_terminated(*_: object) -> None:
    timer = threading.Timer(GRACE, _end)
    timer.daemon = True
    timer.start()
    _clearing_up.append(timer)
    raise Terminated


def _end() -> None:
    """End all the same: SIGTERM for a whole process group (`timeout`, a cluster) may end a worker that holds the lock of its pool's
    queue, for which multiprocessing.Pool then waits for ever."""
    for worker in multiprocessing.active_children():
        worker.kill()
    print("\nnnunet_ssl: interrupted.", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGTERM)


def _again(unraisable) -> None:
    """A signal that came where nothing can be raised (a fork, the end of an object) would be printed and lost: once more."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(unraisable.exc_value, Terminated) else signal.SIGINT
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(unraisable)


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
    before, hook = signal.signal(signal.SIGTERM, _raise_terminated), sys.unraisablehook
    sys.unraisablehook = _again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
        while _clearing_up:
            _clearing_up.pop().cancel()


def _sentence(error: BaseException) -> str:
    """What to say of an error of the system, with its file."""
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            return (
                f"{file}{error.strerror}: a file stands where a folder is needed. Move it away, or name another folder."
            )
        return f"{file}{error.strerror}. Check that it is there, that you may read and write it, and that the disk has space."
    if isinstance(error, MemoryError):
        return "there is not enough memory. Give fewer processes (-np), or use a machine with more."
    if isinstance(error, UnicodeError):
        return f"a name or a text is not in UTF-8 ({error}). Rename the file, or save it in UTF-8."
    return f"a file cannot be read: it is damaged or of another kind ({error}). Restore it."


_REMOTE_FRAME = re.compile(r'File ".*[/\\](nnunetv2|nnunet_ssl)[/\\](.+)\.py", line \d+, in (.+)\n +(.*)')


def _reason_of_nnunet(error: BaseException) -> str | None:
    """What nnU-Net found wrong, where the error arose in one of its functions or in what they call; None where it arose in ours."""
    frames = []  # package, module, function, line of code, those of nnU-Net and of ours only
    for frame, line in traceback.walk_tb(error.__traceback__):
        package, _, module = str(frame.f_globals.get("__name__")).partition(".")
        if package in ("nnunetv2", "nnunet_ssl"):
            code = linecache.getline(frame.f_code.co_filename, line, frame.f_globals)
            frames.append((package, module, frame.f_code.co_name, code))
    # of an error in a worker process there is only the text
    frames += _REMOTE_FRAME.findall(str(error.__cause__))
    if not frames or frames[-1][0] != "nnunetv2":
        return None
    _, module, function, code = frames[-1]
    where = ".".join(["nnunetv2", *Path(module).parts, function])
    reason = " ".join(str(error).split()) or code.strip()  # its assertions often have no text
    return (
        f"nnU-Net stopped in {where}: {type(error).__name__}: {reason}. Put right what it names, and run the command again; "
        "--debug shows where it arose."
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; the exit status.

    1: a mistake that the user can repair, an error of the system, or what nnU-Net does not take, in one sentence; 2: an unknown
    subcommand; 130, 143: interrupted by Ctrl-C or SIGTERM. Any other exception is a fault of this package and keeps its traceback;
    with `--debug` all do.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"nnunet_ssl {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"nnunet_ssl: unknown subcommand '{name}'. Allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = load(name)
    debug = "--debug" in rest
    try:
        args = make_parser(name, module).parse_args([word for word in rest if word != "--debug"])
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
    except Exception as error:
        reason = _reason_of_nnunet(error)
        if debug or reason is None:
            raise
        message = reason
    print(f"\nnnunet_ssl {name}: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
