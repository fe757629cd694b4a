"""Links between the documents lead somewhere, headings included, and every page can be reached from the README."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("channels_*/*.md"),
        *ROOT.glob("plugins/*/*.md"),
        *ROOT.glob("examples/*/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    )
]

_CODE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+).*?^ *(?P=fence) *$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *#* *$", re.MULTILINE)


def prose(page: str) -> str:
    return _CODE.sub("", (ROOT / page).read_text())


def links(page: str) -> list[str]:
    """Where the links of a page lead, but for those to other sites."""
    targets = [found["target"] for found in _LINK.finditer(_SPAN.sub("code", prose(page)))]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: str) -> set[str]:
    """The anchors that a page's headings have where such pages are usually looked at."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in _HEADING.finditer(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"]).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


def destination(page: str, target: str) -> tuple[str, str]:
    """The file, from the root, and the anchor in it."""
    path, _, anchor = target.partition("#")
    where = (ROOT / page).parent / path if path else ROOT / page
    resolved = where.resolve()
    assert resolved.is_relative_to(ROOT), f"{page} links to {target}, outside the repository"
    return resolved.relative_to(ROOT).as_posix(), anchor


def test_there_is_something_to_look_at() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/tutorial/chat.md"} <= set(PAGES)
    assert len(links("README.md")) > 15


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in links(page):
        path, anchor = destination(page, target)
        where = ROOT / path
        is_there = where.exists() and (not anchor or (where.suffix == ".md" and anchor in anchors(path)))
        if not is_there:
            broken.append(target)
    assert broken == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[str] = set()
    ahead = ["README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in links(page):
            path, _ = destination(page, target)
            if (ROOT / path).is_dir():  # whoever opens a folder sees what is in it
                ahead += [child.relative_to(ROOT).as_posix() for child in (ROOT / path).glob("*.md")]
            elif path.endswith(".md") and (ROOT / path).exists():
                ahead.append(path)
    assert [page for page in PAGES if page.startswith("docs/") and page not in reached] == []


def test_headings_become_anchors() -> None:
    page = "docs/reference/errors.md"
    assert {"errors", "sessions-and-requests", "channelfull"} <= anchors(page)
    assert "`WebsocketCloseException`" not in anchors(page)
