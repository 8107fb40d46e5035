"""Every relative link and picture of the front pages is a file of the repository."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(\s*<?([^)>\s]+)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:|#|//")


def links(text: str) -> set[str]:
    """The relative links of a page, without what follows the path."""
    targets = {markdown or html for markdown, html in LINK.findall(text)}
    return {re.split("[#?]", target)[0] for target in targets if not ELSEWHERE.match(target)}


def test_links_are_seen_in_markdown_and_html() -> None:
    text = '[a](b/c.md#d) ![e](f.png "g") [h](https://i) [j](#k) <img width="9" src="l.svg"> <a href="m.md">'
    assert links(text) == {"b/c.md", "f.png", "l.svg", "m.md"}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_relative_link_is_a_file_of_the_repository(page: str) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    tracked = set(listed.stdout.splitlines()) if listed.returncode == 0 else None  # a copy without git has files only
    missing = [
        target
        for target in sorted(links((ROOT / page).read_text()))
        if not (ROOT / target).exists() or (tracked is not None and not is_tracked(target.rstrip("/"), tracked))
    ]
    assert not missing, f"{page} links to what is not in the repository: {', '.join(missing)}"


def is_tracked(target: str, tracked: set[str]) -> bool:
    """Whether git has a file, or anything in a folder."""
    return target in tracked or any(path.startswith(f"{target}/") for path in tracked)
