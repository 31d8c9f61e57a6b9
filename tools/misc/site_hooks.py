"""What mkdocs calls while it builds the site: links that leave ``docs/``."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files outside of ``docs/`` lead to the repository, or else name the file.

    Raises:
        FileNotFoundError: If a link names a file that does not exist.
    """
    url = re.search(r'__url__ = "(.*)"', (ROOT / "mmhcgnet/version.py").read_text())[1]
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def replace(link: re.Match) -> str:
        text, target, anchor = link[1], posixpath.normpath(posixpath.join(folder, link[2])), link[3]
        if target.startswith("docs/"):
            return link[0]
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which does not exist.")
        if url:
            return f"[{text}]({url}/blob/main/{target}{anchor or ''})"
        return text if target in text else f"{text} (`{target}`)"

    return _LINK.sub(replace, markdown)
