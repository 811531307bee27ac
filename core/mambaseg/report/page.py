"""One HTML file that holds all that it shows: style, script, charts and pictures; nothing is fetched."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import mambaseg

__all__ = ["Page", "Section", "definitions", "number", "render"]

# Whatever a name of a case or class may hold, the page loads nothing and sends nothing
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Parameters
    ----------
    title : plain text
    html : content, whose texts are escaped already
    is_folded : only the title shows until it is clicked
    """

    title: str
    html: str
    is_folded: bool = False


@dataclass(frozen=True)
class Page:
    """A report.

    Parameters
    ----------
    title : what it is about
    lead : one sentence with the outcome
    tiles : (figure, what it is) for those in a hurry
    sections : in the order of the page
    """

    title: str
    lead: str
    tiles: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def render(page: Page) -> str:
    """The page as HTML."""
    tiles = "".join(f'<div class="tile"><b>{escape(figure)}</b><span>{escape(words)}</span></div>'
                    for figure, words in page.tiles)
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="mambaseg {mambaseg.__version__}">
<title>{escape(page.title)}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<main>
<header><h1>{escape(page.title)}</h1><p class="quiet">{escape(page.lead)}</p></header>
{f'<div class="tiles">{tiles}</div>' if tiles else ""}
{"".join(_section(section) for section in page.sections if section.html)}
<footer>mambaseg {mambaseg.__version__}, {made}. This file needs no other; it can be kept, sent and printed.</footer>
</main>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def definitions(values: Mapping[str, Any]) -> str:
    """Names and what they stand for, nested values written out."""
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(_words(value))}</dd>" for name, value in values.items())
    return f"<dl>{rows}</dl>" if rows else ""


def number(value: Any) -> str:
    """A figure for people: three digits behind the point below 10, whole numbers as they are, "" for None."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _section(section: Section) -> str:
    if section.is_folded:
        return (f"<section><details><summary>{escape(section.title)}</summary>{section.html}</details></section>\n")
    return f"<section><h2>{escape(section.title)}</h2>{section.html}</section>\n"


def _words(value: Any) -> str:
    """A plain value in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        is_flat = all(isinstance(each, int | float) for each in value)
        return (" x " if is_flat and len(value) in (2, 3) else ", ").join(_words(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
