"""The pages: their commands are accepted, their Python runs, their links lead somewhere, the table of methods is complete."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch

from nnunet_ssl.commands import COMMANDS, load
from nnunet_ssl.commands.arguments import make_parser
from nnunet_ssl.commands.convert import DATASETS
from nnunet_ssl.discovery.listing import trainer_facts
from nnunet_ssl.discovery.variants import find_trainer, trainer_classes
from tests.helpers import functions, methods
from tests.helpers.pages import NNUNET, PAGES, blocks
from tests.helpers.paths import REPOSITORY
from tests.helpers.training import copy_batch, make_trainer, started

# these say where tests look for real data and golden files
FOR_DEVELOPERS = ("CONTRIBUTING.md", "tests/golden/README.md")
AUTHORS = REPOSITORY / "docs" / "add_a_method.md"
METHODS = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")

YEARS_AND_NUMBERS = re.compile(r"arXiv:\d+\.\d+|\b(?:19|20)\d\d\b")
KNOWN = re.compile(r"(nnunet_ssl|nnUNetv2_\w+|python|pip|export|make|pre-commit)\b")


HERE = re.compile(r"<< (\w+)\n.*?^\1$", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"for \w+ in [\w ]+; do$|done$|cat > \w+\.json$")


def lines_of(block: str) -> list[str]:
    """Command lines without indentation, those that end with a backslash joined, without here documents."""
    joined = re.sub(r"\\\n\s*", " ", HERE.sub("", block))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def commands(block: str) -> list[list[str]]:
    """The words of every command line, without comments."""
    found = []
    for line in lines_of(block):
        if KNOWN.match(line):
            found += filter(None, (shlex.split(part, comments=True) for part in line.split(" && ")))
    return found


def examples_of_help() -> list[tuple[str, str]]:
    """What `-h` of every subcommand and converter ends with, by name."""
    modules = {name: load(name) for name in COMMANDS}
    modules |= {f"convert {name}": importlib.import_module(module) for name, (module, _) in DATASETS.items()}
    return [(f"{name} -h", module.EXAMPLE) for name, module in modules.items()]


SEQUENCES = [(page.name, block) for page in PAGES for block in blocks(page, "bash")] + examples_of_help()
COMMAND_LINES = [(place, words) for place, block in SEQUENCES for words in commands(block)]


def of(name: str) -> list:
    return [
        pytest.param(words, id=f"{page}: {' '.join(words)[:60]}")
        for page, words in COMMAND_LINES
        if re.fullmatch(name, words[0])
    ]


EXAMPLES = re.findall(r"^class (nnUNetTrainer\w+)", AUTHORS.read_text(encoding="utf-8"), re.MULTILINE)


def exists(trainer: str) -> bool:
    """Whether there is such a trainer, of nnU-Net, of this package or an example for authors."""
    return trainer == "nnUNetTrainer" or trainer.split("_")[0] in EXAMPLES or bool(find_trainer(trainer))


@pytest.mark.parametrize("words", of("nnunet_ssl"))
def test_our_commands_are_accepted_as_they_stand(words):
    _, name, *rest = words
    assert name in COMMANDS, f"unknown subcommand {name}"
    if name == "convert":
        dataset, *rest = rest
        module = importlib.import_module(DATASETS[dataset][0])
    else:
        module = load(name)
    make_parser(name, module).parse_args(rest)  # exits with a message if the page is wrong
    trainers = [word for word in rest if word.startswith("nnUNetTrainer")]
    for trainer in trainers:
        assert exists(trainer)


@pytest.mark.parametrize("words", of(r"nnUNetv2_\w+"))
def test_commands_of_nnunet_exist_and_name_trainers_that_exist(words):
    assert words[0] in NNUNET
    for trainer in [word for word in words if word.startswith("nnUNetTrainer")]:
        assert exists(trainer)


@pytest.mark.parametrize(("place", "block"), SEQUENCES, ids=lambda text: text[:30].replace("\n", " "))
def test_nothing_is_trained_over_a_model_that_was_used_before(place, block):
    trained, used = [], set()
    for name, *rest in commands(block):
        if name == "nnUNetv2_train":
            trainer = rest[rest.index("-tr") + 1] if "-tr" in rest else "nnUNetTrainer"
            run = (*rest[:3], trainer, rest[rest.index("-p") + 1] if "-p" in rest else "nnUNetPlans")
            assert run not in trained and (rest[0], trainer) not in used, (place, run)
            trained.append(run)
        else:
            dataset = rest[rest.index("-d") + 1] if "-d" in rest else "".join(rest[:1])
            used.update((dataset, word) for word in rest)


class Accepted(Exception):
    """Raised once the arguments are parsed, so that nothing runs."""


@pytest.mark.parametrize("words", of("python"))
def test_scripts_and_modules_accept_their_arguments(words, monkeypatch):
    if words[1] == "-m":
        name, arguments = words[2], words[3:]
        if name in ("pip", "pytest"):
            return
    else:
        assert (REPOSITORY / words[1]).is_file()
        name, arguments = words[1].removesuffix(".py").replace("/", "."), words[2:]
    spec = importlib.util.find_spec(name)
    assert spec, name
    if spec.submodule_search_locations:
        name += ".__main__"
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        parsed = parse(parser, args, namespace)
        for trainer in getattr(parsed, "tr", None) or ():
            assert find_trainer(trainer)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Accepted):  # a page that is wrong exits with a message
        importlib.import_module(name).main(arguments)


def test_every_line_of_a_shell_block_is_a_command_that_is_looked_at():
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in lines_of(block):
                assert line.startswith("#") or KNOWN.match(line) or LOOP.match(line), (page.name, line)
        for block in blocks(page, ""):  # drawings of folders
            assert not any(re.match(r"(nnunet_ssl|nnUNetv2_\w+|python) ", line) for line in block.splitlines()), (
                page.name
            )
    assert len(of("nnunet_ssl")) > 20 and len(of(r"nnUNetv2_\w+")) > 10


def test_python_on_the_pages_runs():
    sources = [block for page in PAGES for block in blocks(page, "python")]
    assert len(sources) >= 2
    for source in sources:
        exec(compile(source, "page", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("source", blocks(AUTHORS, "python"), ids=("views", "networks", "discriminator"))
def test_the_examples_for_authors_train(source, configuration, datasets, tmp_path):
    namespace = {"__name__": "page"}
    exec(compile(source, "page", "exec"), namespace)
    (cls,) = (v for k, v in namespace.items() if k.startswith("nnUNetTrainer") and v.__module__ == "page")
    trainer = started(make_trainer(cls, *datasets(), configuration, results=tmp_path))
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    values = [trainer.train_step(copy_batch(next(trainer.dataloader_train))) for _ in range(2)]
    assert all(v[term] > 0 for v in values for term in (*trainer.weights(), "loss"))
    assert all(torch.isfinite(torch.tensor(float(v["loss"]))) for v in values)


def test_the_first_example_costs_what_the_page_says(datasets, tmp_path):
    """7/3 of nnU-Net's step: patches that go forward and backward count 3, those that go forward only count 1."""
    source, *_ = blocks(AUTHORS, "python")
    namespace = {"__name__": "page"}
    exec(compile(source, "page", "exec"), namespace)
    trainer = started(make_trainer(namespace["nnUNetTrainerWeakStrong"], *datasets(), results=tmp_path))
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    passes = []
    trainer.network.register_forward_hook(
        lambda _, inputs, output: passes.append(len(inputs[0]) * (3 if output[0].requires_grad else 1))
    )
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    assert sum(passes) / (3 * len(batch["data"])) == pytest.approx(7 / 3)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_pages_for_users_point_at_nothing_outside_the_repository(page):
    if str(page.relative_to(REPOSITORY)) not in (*FOR_DEVELOPERS, "CHANGELOG.md"):
        assert "../shared" not in page.read_text(encoding="utf-8")


def test_every_trainer_has_a_row_and_a_section_with_its_facts():
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \|(.*)\|$", METHODS, re.MULTILINE)
    expected = {name.removeprefix("nnUNetTrainer") for name in trainer_classes()}
    assert {name for name, *_ in rows} == expected and len(rows) == len(expected)
    sections = re.findall(r"^### (nnUNetTrainer\w+)\n(.*?)(?=^##|\Z)", METHODS, re.MULTILINE | re.DOTALL)
    assert sorted(name for name, _ in sections) == sorted(trainer_classes())
    for name, text in sections:
        for fact in (
            "Source",
            "In nnU-Net",
            "Passes per step",
            "Supports",
            "Differs from the official code",
            "When to use",
        ):
            assert text.count(f"* **{fact}**: ") == 1, (name, fact)


def test_passes_networks_and_support_on_the_page_are_those_of_the_classes():
    assert methods.written(METHODS) == METHODS, "run `python -m tests.helpers.methods`"
    stale = METHODS.replace("F+B on L+U, F on U |", "F+B |").replace("* **Supports**: 2D, 3D,", "* **Supports**: 2D,")
    assert stale != METHODS and methods.written(stale) == METHODS


def test_the_methods_page_says_what_the_classes_say():
    titles = {"unlabeled": "Unlabeled images", "sparse": "Sparse labels", "partial": "Partial labels"}
    tables = {kind: METHODS.split(f"\n## {title}\n")[1].split("\n## ")[0] for kind, title in titles.items()}
    for facts in trainer_facts():
        name = facts.name.removeprefix("nnUNetTrainer")
        assert re.search(rf"^\| \[{name}\]", tables[facts.kind], re.MULTILINE), facts.name
        passes = facts.short_passes
        trained = [n for n in facts.networks if not n.endswith("teacher")]
        assert ("two networks" in passes or "transformer" in passes) == (len(trained) == 2), facts.name
        section = re.search(rf"^### {facts.name}\n(.*?)(?=^##|\Z)", METHODS, re.MULTILINE | re.DOTALL)[1]
        source = re.search(r"\* \*\*Source\*\*: (.*?)(?=^\* \*\*)", section, re.MULTILINE | re.DOTALL)[1]
        assert set(YEARS_AND_NUMBERS.findall(source)) & set(YEARS_AND_NUMBERS.findall(facts.citation)), facts.name


def test_the_list_of_functions_is_what_the_docstrings_say():
    text = functions.PAGE.read_text(encoding="utf-8")
    assert text == functions.page(), "run `python -m tests.helpers.functions`"
    assert not re.search(r"`: *$", text, re.MULTILINE), "a docstring is missing"


def test_the_overview_counts_the_trainers():
    counts = Counter(facts.kind for facts in trainer_facts())
    expected = "{unlabeled} for unlabeled images, {sparse} for sparse labels, {partial} for partial labels"
    assert expected.format_map(counts) in (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")


def test_the_page_of_each_folder_names_its_trainers():
    for name, cls in trainer_classes().items():
        page = Path(inspect.getfile(cls)).with_name("README.md")
        assert f"`{name}`" in page.read_text(encoding="utf-8"), page


def test_cells_of_the_methods_are_short():
    cells = [
        cell.strip() for row in re.findall(r"^\| \[\w+\].*$", METHODS, re.MULTILINE) for cell in row.split("|")[2:]
    ]
    assert max(map(len, cells)) <= 60
