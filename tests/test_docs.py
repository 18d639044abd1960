# SPDX-License-Identifier: Apache-2.0
"""What the documents name exists: links, headings, files, targets of make, commands, modules."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/**/README.md")]

_LINK = re.compile(r"\]\(([^()\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
#: Not ``~/models/out``; files of other projects lie in ``docs`` as well.
_FILE = re.compile(r"(?<![\w/.~-])(?:examples|models|schedules|tests|tools|xnortvm)/[\w/.-]*\w")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in _LINK.findall(text(page)):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    named = {name for code in _CODE.findall(text(page)) for name in _FILE.findall(code)}
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pages
def test_targets_of_make_exist(page: Path) -> None:
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|[`(] ?)make ([a-z][\w-]*)", text(page), re.MULTILINE))
    assert named - known == set()


@pages
def test_commands_exist(page: Path) -> None:
    from xnortvm.tools.cli import COMMANDS

    named = set(re.findall(r"(?:^|[`$] ?)xnortvm ([a-z][\w-]*)", text(page), re.MULTILINE))
    assert named - set(COMMANDS) == set()


@pages
def test_modules_that_are_run_exist(page: Path) -> None:
    named = set(re.findall(r"python3? -m ((?:xnortvm|tests)[\w.]*\w)", text(page)))
    assert {name for name in named if find_spec(name) is None} == set()
