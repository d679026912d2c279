"""README.zh-CN.md says what README.md says: the same commands, chapters and links, in the same order."""

from __future__ import annotations

import re

import pytest
import readme

ENGLISH, CHINESE = "README.md", "README.zh-CN.md"


def commands(page: str) -> list[str]:
    """Fenced blocks with how each is tried, without comments, which are translated."""
    blocks = re.findall(r"(?:<!-- try: (.*?) -->\n)?```(\w*)\n(.*?)^```$", page, re.M | re.S)
    return ["\n".join((how, language, re.sub(r" *(?<!\S)# .*", "", code))) for how, language, code in blocks]


def links(page: str) -> list[str]:
    """Where links lead, those to the page itself or to its translation aside."""
    targets = re.findall(r"\]\(([^)\s]+)\)|<(https?://[^>]+)>", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S))
    return [target for pair in targets if (target := "".join(pair)).partition("#")[0] not in (ENGLISH, CHINESE)]


def chapters(page: str) -> list[str]:
    return re.findall(r"^(#+) ", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M)


@pytest.mark.parametrize("part", [commands, links, chapters])
def test_the_translation_has_the_same(part: object) -> None:
    assert callable(part)
    assert part(readme.text(ENGLISH)) == part(readme.text(CHINESE)) != []


def test_each_leads_to_the_other() -> None:
    assert f"({CHINESE})" in readme.text(ENGLISH) and f"({ENGLISH})" in readme.text(CHINESE)


def test_it_is_in_chinese() -> None:
    chinese = re.sub(r"^```.*?^```$|<[^>]*>|\S*/\S*", "", readme.text(CHINESE), flags=re.M | re.S)
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > len(re.findall(r"[a-z]+", chinese, re.I))


def test_a_command_that_differs_is_noticed() -> None:
    page = readme.text(CHINESE)
    assert commands(page.replace("make deploy ", "make release ")) != commands(page)
    assert commands(page.replace("# 用完之后", "# something else")) == commands(page)
