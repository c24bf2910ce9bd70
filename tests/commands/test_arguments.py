"""Arguments of all commands: numbers that no command can mean."""

from __future__ import annotations

import argparse
import importlib

import pytest

from nnunet_ssl.commands import COMMANDS, load
from nnunet_ssl.commands.arguments import Parser, make_parser
from nnunet_ssl.commands.convert import DATASETS
from nnunet_ssl.errors import UserError


def parsers() -> dict[str, Parser]:
    converters = {f"convert {name}": importlib.import_module(module) for name, (module, _) in DATASETS.items()}
    return {name: make_parser(name, module) for name, module in ({n: load(n) for n in COMMANDS} | converters).items()}


PARSERS = parsers()
NUMBERS = [
    (name, action.option_strings[0])
    for name, parser in PARSERS.items()
    for action in parser._actions
    if action.option_strings and action.type in (int, float) and not action.choices
]


def words_with(parser: Parser, option: str, value: str) -> list[str]:
    """What must be given, and this option."""
    words = []
    for action in parser._actions:
        if action.required and option not in action.option_strings:
            given = next(iter(action.choices)) if action.choices else "1"
            words += [*action.option_strings[:1], str(given)]
    return [*words, f"{option}={value}"]


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_numbers_that_no_command_can_mean_are_refused(name, option):
    parser = PARSERS[name]
    action = next(a for a in parser._actions if option in a.option_strings)
    if isinstance(action.nargs, int):
        pytest.skip(f"{option} takes {action.nargs} numbers, which are read alike")
    for value in ("nan", "inf", "-inf", "1e300") if action.type is float else ("9" * 20, "-" + "9" * 20):
        with pytest.raises(UserError, match=rf"^{option} is .*; allowed are (numbers from|finite numbers)"):
            parser.parse_args(words_with(parser, option, value))
    assert isinstance(parser.parse_args(words_with(parser, option, "1")), argparse.Namespace)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("split", "--seed", "-1"),
        ("convert LA", "--seed", "-1"),
        ("check", "-np", "0"),
        ("plan_and_preprocess", "-np", "0"),
        ("plan_and_preprocess", "-gpu_memory_target", "-4"),
        ("merge", "-f", "999999999"),
    ],
)
def test_numbers_outside_of_the_range_of_an_option_are_refused(name, option, value):
    with pytest.raises(UserError, match=rf"^{option} is {value}"):
        PARSERS[name].parse_args(words_with(PARSERS[name], option, value))
