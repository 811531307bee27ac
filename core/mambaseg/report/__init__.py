"""A run as one HTML file: curves, spread, pictures, tables and settings, to look at, to send and to print.

`write_report` with `evaluation_page`, `training_page` or `finetune_page`.
"""

from __future__ import annotations

from pathlib import Path

from mambaseg.io.atomic import atomic_path
from mambaseg.report.evaluation import evaluation_page
from mambaseg.report.page import Page, render
from mambaseg.report.training import finetune_page, training_page

__all__ = ["Page", "evaluation_page", "finetune_page", "training_page", "write_report"]


def write_report(page: Page, path: Path) -> None:
    """Write a page as an HTML file that needs no other, whole or not at all.

    Raises
    ------
    UserError : the file cannot be written
    """
    content = render(page).encode("utf-8")
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)
