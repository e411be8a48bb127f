"""The one way to the terminal. Whatever is printed may hold foreign text (settings, file names, records, answers of
servers): control characters become escapes that can be read, and square brackets are not markup."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.text import Text

from components.services.events import visible


class Console(rich.console.Console):
    """rich's console, which takes every string as plain text; styles are given separately."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """What rich makes of a string before it prints it, in `print` and in the cells of a table."""
        return super().render_str(visible(text), **options | {"markup": False, "emoji": False})


console = Console()
errors = Console(stderr=True)
