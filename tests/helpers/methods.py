"""What docs/methods.md has from the classes: cells of passes in its tables, and passes, networks and support in its sections.

As a command, `python -m tests.helpers.methods` writes these places of the page; what stands around them is written by hand.
"""

from __future__ import annotations

import re
import textwrap

from nnunet_ssl.discovery.listing import TrainerFacts, trainer_facts
from tests.helpers.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "methods.md"


def bullets(facts: TrainerFacts) -> str:
    """The lines of a trainer's section that come from its class."""
    texts = {
        "Passes per step": facts.passes,
        "Supports": f"{', '.join(facts.supports)}. Networks: {', '.join(facts.networks)}.",
    }
    return "".join(
        textwrap.fill(f"* **{head}**: {text}", 130, subsequent_indent="  ", break_on_hyphens=False) + "\n"
        for head, text in texts.items()
    )


def _item(head: str) -> str:
    """A regular expression of a list item and the lines that it goes on in."""
    return rf"\* \*\*{head}\*\*: .*\n(?:  .*\n)*"


def written(text: str) -> str:
    """The page with these places as the classes have them."""
    for facts in trainer_facts():
        name = facts.name.removeprefix("nnUNetTrainer")
        text = re.sub(
            rf"^(\| \[{name}\]\(#\w+\) \|[^|]*\|)[^|]*\|",
            lambda found, cell=facts.short_passes: f"{found[1]} {cell} |",
            text,
            flags=re.MULTILINE,
        )
        text = re.sub(
            rf"(^### {facts.name}\n(?:(?!#).*\n)*?){_item('Passes per step')}(?:{_item('Supports')})?",
            lambda found, facts=facts: found[1] + bullets(facts),
            text,
            flags=re.MULTILINE,
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
