"""The one way to the terminal. Whatever is printed may hold foreign text (settings, file names, records, answers of
servers): control characters become escapes that can be read, and square brackets are not markup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich.console
from rich.text import Text

from components.services.events import visible

if TYPE_CHECKING:
    from components.evaluations.tables import TextTable


UNFOLDED = 200  # columns, within which no table has to fold a cell


class Console(rich.console.Console):
    """rich's console, which takes every string as plain text; styles are given separately."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True} | options)
        if not self.is_terminal and "width" not in options:
            self.width = UNFOLDED  # a file or a pipe has no width

    def render_str(self, text: str, **options: Any) -> Text:
        """What rich makes of a string before it prints it, in `print` and in the cells of a table."""
        return super().render_str(visible(text), **options | {"markup": False, "emoji": False})


def print_table(to: Console, table: TextTable, title: str = "") -> None:
    """Print a table with its title and note; the first column is one of names."""
    from rich.table import Table

    shown = Table(title=title or table.title, title_justify="left", caption=table.note, caption_justify="left")
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if index < 2 else "right", no_wrap=index == 0)
    for row in table.rows:
        shown.add_row(*row)
    to.print(shown, soft_wrap=False)


console = Console()
errors = Console(stderr=True)
