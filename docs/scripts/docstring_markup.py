"""Show docstrings that are written for Sphinx in Markdown: equations, roles, tables and examples.

The equations become MathML while the site is built, so that a page needs no script and nothing from elsewhere.
"""

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`~?(?:[^`<]*<)?([\w.]+)>?`")
EQUATION = re.compile(r"^( *)\.\. math::(?: (.+)\n|\n\n?)((?:\1 +\S.*\n|\n(?=\1 +\S))*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
EXAMPLE = re.compile(r"^( *)Example:$(?=\n+\1 +>>> )", re.MULTILINE)
TABLE = re.compile(r"^( *)(=+(?: +=+)+)\n(.*)\n\1\2\n((?:.*\n)+?)\1\2$", re.MULTILINE)


class DocstringMarkup(griffe.Extension):
    """Rewrite every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """Return a docstring in Markdown, with its equations as MathML, its roles as code and its example as a section."""
    text = EQUATION.sub(equation, text + "\n")
    text = INLINE.sub(lambda found: convert(found[1]), text)
    text = TABLE.sub(table, text)
    # Griffe knows the section by its plural only; under another title, doctests would become quotations.
    text = EXAMPLE.sub(r"\1Examples:", text)
    return ROLE.sub(r"`\1`", text).rstrip("\n")


def equation(found: re.Match[str]) -> str:
    """Return a displayed equation as a line of MathML."""
    latex = " ".join(textwrap.dedent(f"{found[2] or ''}\n{found[3]}").split())
    return f"{found[1]}{convert(latex, display='block')}\n\n"


def table(found: re.Match[str]) -> str:
    """Return a simple table of reStructuredText as one of Markdown; a row that begins with a space goes on above."""
    indent, rule, head, body = found.groups()
    spans = [(part.start(), part.end()) for part in re.finditer(r"=+", rule)]
    spans[-1] = (spans[-1][0], 1000)

    def cells(line: str) -> list[str]:
        return [line[len(indent) :][start:end].strip() for start, end in spans]

    rows = [cells(head), ["---"] * len(spans)]
    for line in body.splitlines():
        row = cells(line)
        if row[0]:
            rows.append(row)
        else:
            rows[-1] = [f"{above} {more}".strip() for above, more in zip(rows[-1], row, strict=True)]
    return "\n".join(f"{indent}| {' | '.join(row)} |" for row in rows)
