"""A page made of blocks, rendered as one self-contained HTML file and as Markdown."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import Protocol

from wavlm_lightning.reports.tables import Table


class Block(Protocol):
    """A piece of a page; its HTML refers to nothing outside the page."""

    def to_html(self) -> str: ...

    def to_markdown(self) -> str: ...


@dataclass(frozen=True)
class Heading:
    """The heading of a section."""

    text: str

    def to_html(self) -> str:
        return f"<h2>{inline(self.text)}</h2>"

    def to_markdown(self) -> str:
        return f"## {self.text}"


@dataclass(frozen=True)
class Paragraph:
    """Text with the marks of `inline`; `kind` is a class of the style sheet."""

    text: str
    kind: str = ""

    def to_html(self) -> str:
        return f'<p class="{self.kind}">{inline(self.text)}</p>' if self.kind else f"<p>{inline(self.text)}</p>"

    def to_markdown(self) -> str:
        return _plain_markdown(self.text)


@dataclass(frozen=True)
class Facts:
    """A row of key figures: (name, figure) pairs."""

    pairs: Sequence[tuple[str, str]]

    def to_html(self) -> str:
        items = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(v)}</dd></div>" for name, v in self.pairs)
        return f'<dl class="key">{items}</dl>'

    def to_markdown(self) -> str:
        return _plain_markdown(" · ".join(f"{value} {name}" for name, value in self.pairs))


@dataclass(frozen=True)
class Drawing:
    """A picture: inline SVG panels that wrap on a narrow page, and one PNG file for Markdown."""

    panels: Sequence[str]
    image: str
    caption: str

    def to_html(self) -> str:
        panels = "".join(f'<div class="panel">{svg}</div>' for svg in self.panels)
        return (
            f'<figure class="of-{min(len(self.panels), 3)}"><div class="panels">{panels}</div>'
            f"<figcaption>{inline(self.caption)}</figcaption></figure>"
        )

    def to_markdown(self) -> str:
        return f"![{self.image.partition('.')[0]}]({self.image})\n\n{_plain_markdown(self.caption)}"


@dataclass(frozen=True)
class Sounds:
    """Sounds to play, each with its spectrogram; inside the page as data, in Markdown as links to files.

    Attributes:
        drawing: a panel for each sound.
        names: of the sounds, for screen readers and links.
        data: of each sound, as a `data:` address.
        files: of each sound, as seen from the page.
    """

    drawing: Drawing
    names: Sequence[str]
    data: Sequence[str]
    files: Sequence[str]

    def to_html(self) -> str:
        panels = "".join(
            f'<div class="panel">{svg}<audio controls preload="metadata" aria-label="{html.escape(name)}" src="{address}">'
            "</audio></div>"
            for svg, name, address in zip(self.drawing.panels, self.names, self.data, strict=True)
        )
        return (
            f'<figure class="sounds of-{min(len(self.names), 3)}"><div class="panels">{panels}</div>'
            f"<figcaption>{inline(self.drawing.caption)}</figcaption></figure>"
        )

    def to_markdown(self) -> str:
        links = " · ".join(f"[{name}]({file})" for name, file in zip(self.names, self.files, strict=True))
        return f"{self.drawing.to_markdown()}\n\n{links}"


@dataclass(frozen=True)
class Commands:
    """Commands to copy: (purpose, command) pairs. One click selects a whole command."""

    pairs: Sequence[tuple[str, str]]

    def to_html(self) -> str:
        return "".join(
            f'<p class="purpose">{inline(purpose)}</p><pre tabindex="0"><code>{html.escape(command)}</code></pre>'
            for purpose, command in self.pairs
        )

    def to_markdown(self) -> str:
        return "\n\n".join(f"{_plain_markdown(purpose)}\n\n```sh\n{command}\n```" for purpose, command in self.pairs)


@dataclass(frozen=True)
class Fold:
    """Blocks under a line that opens and closes them; in Markdown under a third-level heading."""

    summary: str
    blocks: Sequence["Block | Table"]

    def to_html(self) -> str:
        inside = "\n".join(block.to_html() for block in self.blocks)
        return f"<details><summary>{inline(self.summary)}</summary>\n{inside}</details>"

    def to_markdown(self) -> str:
        return "\n\n".join([f"### {_plain_markdown(self.summary)}", *(block.to_markdown() for block in self.blocks)])


@dataclass(frozen=True)
class Notes:
    """A list in small type."""

    lines: Sequence[str]

    def to_html(self) -> str:
        return '<ul class="notes">' + "".join(f"<li>{inline(line)}</li>" for line in self.lines) + "</ul>"

    def to_markdown(self) -> str:
        return "\n".join(f"- {_plain_markdown(line)}" for line in self.lines)


@dataclass
class Page:
    """A page with a title, a line above it (`eyebrow`), one sentence in large type (`lead`), and blocks."""

    title: str
    eyebrow: str
    lead: str
    blocks: list[Block | Table] = field(default_factory=list)

    def to_html(self) -> str:
        """The whole page with its style sheet and drawings; it makes no request."""
        template = resources.files("wavlm_lightning.reports").joinpath("page.html").read_text(encoding="utf-8")
        return Template(template).substitute(
            title=html.escape(self.title),
            eyebrow=inline(self.eyebrow),
            lead=inline(self.lead),
            body="\n".join(block.to_html() for block in self.blocks),
        )

    def to_markdown(self) -> str:
        """The same page in Markdown, which refers to PNG files in its own folder."""
        parts = [f"# {self.title}", _plain_markdown(self.eyebrow), f"**{_plain_markdown(self.lead)}**"]
        return "\n\n".join([*parts, *(block.to_markdown() for block in self.blocks)]) + "\n"


def inline(text: str) -> str:
    """Escape text for HTML and render `**strong**`, backticked code and `[links](address)`."""
    text = html.escape(text)
    text = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)


def _plain_markdown(text: str) -> str:
    # Outside code `<` would open an HTML tag; inside code Markdown shows it as it is.
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
