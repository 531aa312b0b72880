"""A hook of MkDocs, so that one page reads well on the site and on a forge.

Files outside docs/ become pages: one relative link works in both places. A picture NAME-light.png gets NAME-dark.png
beside it, and the site shows the one that suits its colours; a forge shows the light one.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: A file of the repository -> its page on the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "tasks/README.md": "tasks.md",
    "harness/experiments/README.md": "experiments.md",
}
#: Kept results are pages under their own paths, their data and pictures beside them.
PAGES |= {
    name: name
    for folder in ("benchmarks", "leaderboards")
    for name in (str(path.relative_to(ROOT)) for path in sorted((ROOT / folder / "results").iterdir()))
}
_PICTURE = re.compile(r"!\[([^\]]*)\]\((\S+)-light\.png\)")
_LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages."""
    from mkdocs.structure.files import File  # the tests of the other function have no mkdocs

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to those files into links to their pages, and pictures into pairs."""
    markdown = _PICTURE.sub(r"![\1](\2-light.png#only-light)\n![\1](\2-dark.png#only-dark)", markdown)
    here = page.file.src_uri
    source = {page: file for file, page in PAGES.items()}.get(here, f"docs/{here}")

    def mended(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if target in PAGES:
            to = PAGES[target]
        elif target == "README.md":
            to = "index.md"
        elif source != f"docs/{here}" and target.startswith("docs/"):
            to = target.removeprefix("docs/")
        else:
            return match[0]
        return f"]({posixpath.relpath(to, posixpath.dirname(here) or '.')}{match[2] or ''})"

    return _LINK.sub(mended, markdown)
