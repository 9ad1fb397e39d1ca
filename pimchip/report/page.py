"""One HTML file with everything inside: text, tables and SVG plots, no script, nothing fetched."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from pimchip.files import replacing

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
 h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
 table { border-collapse: collapse; } td, th { padding: .25rem .8rem; border-bottom: 1px solid #d5dae0; text-align: right; }
 td:first-child, th:first-child { text-align: left; } figure { margin: 1rem 0; } figcaption, footer { color: #57606a; font-size: .9rem; }
 svg { max-width: 100%; height: auto; }
</style></head><body>
<h1>{{ title }}</h1>
{% for section in sections %}<section><h2>{{ section.title }}</h2>
{% for line in section.text %}<p>{{ line }}</p>
{% endfor %}{% if section.rows %}<table><tr>{% for c in section.columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endif %}
{% for figure in section.figures %}<figure>{{ figure.svg }}<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}</section>
{% endfor %}<footer>{{ footer }}</footer>
</body></html>
"""


@dataclass(frozen=True)
class Figure:
    """An SVG with its caption."""

    svg: Markup
    caption: str


@dataclass
class Section:
    """A heading with paragraphs, a table and figures, in this order; each may be absent."""

    title: str
    text: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def write_page(path: Path, title: str, sections: list[Section], footer: str) -> Path:
    """Write the page through a temporary file and a rename; every text is escaped. Returns the path."""
    page = Environment(autoescape=True).from_string(TEMPLATE).render(title=title, sections=sections, footer=footer)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
