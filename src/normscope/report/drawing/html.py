"""HTML pages from templates: the assets beside the package, the style sheet, and files inside a page."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from normscope.report.drawing.palette import style_sheet

if TYPE_CHECKING:
    from markupsafe import Markup


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


def script_hash(script: str) -> str:
    """Return the hash with which the policy of a page permits this script only, whatever text a study contains."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def island(content: Mapping[str, Any]) -> str:
    """Return JSON for programs that read the page, escaped so that it cannot end its element."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def breakable(name: str) -> "Markup":
    """Return a name as HTML that may break after its dots and underscores, and nowhere else."""
    from markupsafe import Markup

    return Markup("_<wbr>").join(Markup(".<wbr>").join(part.split(".")) for part in name.split("_"))
