"""MkDocs hook that adds files outside `docs` to which pages link (READMEs of experiments and configurations) to the site.

Links also work in a checkout: `../experiments/demo/README.md`.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
INTO_DOCS = re.compile(r"(\]\((?:\.\./)+)docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file outside `docs` that a page links to, and those that these link to."""
    root = Path(config.config_file_path).parent
    pages = [Path(file.abs_src_path) for file in files if file.is_documentation_page() and file.abs_src_path]
    while pages:
        page = pages.pop()
        for _, target in LINK.findall(page.read_text(encoding="utf-8")):
            found = (page.parent / target).resolve()
            inside = found.is_relative_to(config.docs_dir) or not found.is_relative_to(root)
            uri = None if inside else found.relative_to(root).as_posix()
            if uri is None or not found.is_file() or files.get_file_from_path(uri):
                continue
            files.append(File.generated(config, uri, abs_src_path=str(found)))
            if found.suffix == ".md":
                pages.append(found)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links out of `docs`, and from outside into `docs`, to the places of those files on the site."""
    if page.file.generated_by is not None:
        return INTO_DOCS.sub(r"\1", markdown)
    return LINK.sub(lambda link: link[1] + link[2].removeprefix("../"), markdown)
