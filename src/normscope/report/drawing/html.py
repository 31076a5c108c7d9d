"""HTML pages from templates: the assets beside the package, the style sheet, and files inside a page."""

import base64
from importlib.resources import files
from typing import Any

from normscope.report.drawing.palette import style_sheet


def read_asset(name: str) -> str:
    """Return the text of a template, style sheet or script of this package."""
    return files("normscope.report").joinpath(name).read_text(encoding="utf-8")


def fill_template(name: str, **values: Any) -> str:
    """Fill a template, with the style sheet of all pages as ``style``; every text in ``values`` is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = Markup(style_sheet() + read_asset("page.css"))
    return environment.from_string(read_asset(name)).render(style=style, **values)


def data_address(kind: str, text: str) -> str:
    """Return a ``data:`` address of a text with a media type such as ``text/csv``."""
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"
