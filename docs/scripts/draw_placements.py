"""Draw every placement: ``python docs/scripts/draw_placements.py`` writes docs/drawings/<placement>.svg.

A drawing is read from left to right. What a placement does is written in a line of words:

    x  N  f  …      the stream, a norm, a branch, more layers of the same kind
    [  +            the shortcut begins; it is added to what stands there. A second + uses the same beginning
    +label          the shortcut is multiplied by label first
    *label          multiplication by label
    |label          a mark above the stream: what follows belongs to label

Every other word is a box with that text. An underscore is a space.
"""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

DRAWINGS = Path(__file__).resolve().parents[1] / "drawings"


@dataclass(frozen=True)
class Drawing:
    """One placement: the words of its stream and its equation."""

    words: str
    equation: str
    dual: bool = False
    """A second stream below sums up the branches and is normalized once, at the end."""


PLACEMENTS = {
    "preactivation": Drawing("x W N relu", "h = relu(N(W x))"),
    "post": Drawing("x [ f + N", "x ← N(x + f(x))"),
    "pre": Drawing("x [ N f + … N", "x ← x + f(N(x)); N at the end"),
    "output": Drawing("x [ f N + … N", "x ← x + N(f(x)); N at the end"),
    "peri": Drawing("x N [ N f N + … N", "x ← x + N(f(N(x))); N at both ends"),
    "deepnorm": Drawing("x [ f +α N", "x ← N(α x + f(x)); first weights of f times β"),
    "rezero": Drawing("x [ f *a +", "x ← x + a f(x); a = 0 at first"),
    "layernorm_scaling": Drawing(
        "x [ N *1/√l f + … N", "x ← x + f(N(x) / √l), l the number of the layer; N at the end"
    ),
    "recursive_skip": Drawing("x [ f + N + N", "y ← N(x + f(x)), then y ← N(x + y)"),
    "hybrid": Drawing(
        "x [ attention:_N_on_q,_k,_v + N [ feed-forward + … N",
        "attention with N on q, k, v; then x ← N(x), x ← x + f(x); N at the end",
    ),
    "mix": Drawing(
        "x |first_layers [ f + N … |other_layers [ N f + … N", "the first layers post, the rest pre; N at the end"
    ),
    "residual_dual": Drawing("x [ f + N …", "x ← N(x + f(x)), s ← s + f(x); output x + N(s)", dual=True),
    "none": Drawing("x [ f +", "x ← x + f(x)"),
    "fixup": Drawing("x [ ·_+_b f *a +", "x ← x + a f(x + b); a = 1, b = 0, and the last weights of f 0 at first"),
    "t_fixup": Drawing("x [ f +", "x ← x + f(x); first weights of f and of the embeddings times a factor"),
    "skipinit": Drawing("x [ f *α +", "x ← x + α f(x); α = 0 or 1/√branches at first"),
    "scaled_branches": Drawing(
        "x [ f *1/√B +", "x ← x + f(x) / √B, B the number of branches; or the last weights of f times 1/√B at first"
    ),
}

STYLE = """
    .paper { fill: #ffffff; stroke: #d5d9e0 }
    .line { stroke: #2b3240; stroke-width: 1.6; fill: none }
    .tip { fill: #2b3240 }
    .text { fill: #1c2230; font: 14px "Helvetica Neue", Arial, sans-serif; text-anchor: middle }
    .small { fill: #4b5568; font: 12px "Helvetica Neue", Arial, sans-serif; text-anchor: middle }
    .equation { fill: #1c2230; font: 14px "DejaVu Sans Mono", Menlo, Consolas, monospace }
    .norm { fill: #ffd9a8; stroke: #b86a00 }
    .branch { fill: #cfe2ff; stroke: #2f62b5 }
    .node { fill: #ffffff; stroke: #2b3240; stroke-width: 1.6 }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #1d212b; stroke: #3a4152 }
      .line { stroke: #d8dde8 }
      .tip { fill: #d8dde8 }
      .text, .equation { fill: #eef1f7 }
      .small { fill: #b4bccb }
      .norm { fill: #7a4a08; stroke: #f0a23c }
      .branch { fill: #24457e; stroke: #86b1f5 }
      .node { fill: #1d212b; stroke: #d8dde8 }
    }
"""


@dataclass
class Canvas:
    """What is drawn so far, and how far to the right it reaches."""

    y: int
    x: float = 20.0
    below: list[str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    start: float = 0.0
    depth: int = 0
    branch_end: float = 0.0

    def go(self, to: float, *, tip: bool = False) -> None:
        """Draw the stream on to an x."""
        self.below.append(f'<path class="line" d="M{self.x:g} {self.y}H{to:g}"/>')
        if tip:
            self.above.append(arrow(to, self.y))
        self.x = to

    def box(self, label: str) -> None:
        """Draw a box with a text, behind a piece of stream."""
        width = max(34.0, 8.2 * len(label) + 16)
        self.go(self.x + 22, tip=True)
        kind = "norm" if label == "N" else "branch"
        self.above.append(
            f'<rect class="{kind}" x="{self.x:g}" y="{self.y - 16}" width="{width:g}" height="32" rx="4"/>'
            f'<text class="text" x="{self.x + width / 2:g}" y="{self.y + 5}">{escape(label)}</text>'
        )
        self.x += width

    def node(self, label: str) -> None:
        """Draw a circle with a sign."""
        self.go(self.x + 22, tip=True)
        self.above.append(
            f'<circle class="node" cx="{self.x + 11:g}" cy="{self.y}" r="11"/>'
            f'<text class="text" x="{self.x + 11:g}" y="{self.y + 5}">{label}</text>'
        )
        self.x += 22

    def add(self, factor: str) -> None:
        """Draw a sum, and the shortcut that ends in it."""
        self.branch_end = self.x + 8
        self.node("+")
        middle, low = self.x - 11, self.y + 42 + 16 * self.depth
        self.below.append(
            f'<path class="line" d="M{self.start:g} {self.y}V{low - 8}Q{self.start:g} {low} {self.start + 8:g} {low}'
            f'H{middle - 8:g}Q{middle:g} {low} {middle:g} {low - 8}V{self.y + 12}"/>'
        )
        self.above.append(arrow(middle, self.y + 11, "up"))
        if factor:
            center = (self.start + middle) / 2
            self.above.append(
                f'<circle class="node" cx="{center:g}" cy="{low}" r="11"/>'
                f'<text class="text" x="{center:g}" y="{low + 5}">{escape(factor)}</text>'
            )
        self.depth += 1


TIPS = {"right": ((-8, -4), (-8, 4)), "up": ((-4, 8), (4, 8)), "down": ((-4, -8), (4, -8))}


def arrow(x: float, y: float, towards: str = "right") -> str:
    """Return the tip of an arrow that ends at a point."""
    points = ((0, 0), *TIPS[towards])
    return f'<polygon class="tip" points="{" ".join(f"{x + a:g},{y + b:g}" for a, b in points)}"/>'


def draw(name: str, drawing: Drawing) -> str:
    """Return the SVG of one placement."""
    canvas = Canvas(y=46)
    canvas.above.append(f'<text class="text" x="{canvas.x:g}" y="{canvas.y + 5}">x</text>')
    canvas.x += 10
    sums = []
    for word in drawing.words.split()[1:]:
        label = word[1:].replace("_", " ")
        if word == "[":
            canvas.go(canvas.x + 20)
            canvas.start, canvas.depth = canvas.x, 0
        elif word == "…":
            canvas.go(canvas.x + 22, tip=True)
            canvas.above.append(f'<text class="text" x="{canvas.x + 12:g}" y="{canvas.y + 5}">…</text>')
            canvas.x += 24
        elif word[0] == "+":
            canvas.add(label)
            sums.append(canvas.branch_end)
        elif word[0] == "*":
            canvas.node("×")
            canvas.above.append(f'<text class="small" x="{canvas.x - 11:g}" y="{canvas.y - 17}">{escape(label)}</text>')
        elif word[0] == "|":
            canvas.above.append(f'<text class="small" x="{canvas.x + 70:g}" y="{canvas.y - 26}">{label}</text>')
        else:
            canvas.box(word.replace("_", " "))
    bottom = canvas.y + 42 + 16 * max(canvas.depth - 1, 0)
    if drawing.dual:
        bottom = second_stream(canvas, sums, bottom)
    canvas.go(canvas.x + 30, tip=True)
    equation = f"{name}:  {drawing.equation}"
    width, height = max(canvas.x + 20, 8.6 * len(equation) + 40), bottom + 56
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}"'
        f' role="img" aria-label="{escape(equation)}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1}" rx="6"/>\n'
        + "\n".join([*canvas.below, *canvas.above])
        + f'\n<text class="equation" x="20" y="{height - 18}" xml:space="preserve">{escape(equation)}</text>\n</svg>\n'
    )


def second_stream(canvas: Canvas, sums: list[float], bottom: int) -> int:
    """Draw the stream that sums up the branches, its norm, and the sum of both streams; return where it ends below."""
    first, canvas.y = canvas.y, bottom + 46
    below, right, canvas.x = canvas.y, canvas.x, 20.0
    canvas.above.append(f'<text class="text" x="20" y="{below + 5}">s</text>')
    canvas.x = 30.0
    for end in sums:
        canvas.go(end - 33)
        canvas.node("+")  # its center is where the branch ends above
        canvas.below.append(f'<path class="line" d="M{end:g} {first}V{below - 12}"/>')
        canvas.above.append(arrow(end, below - 11, "down"))
    canvas.go(right - 46)
    canvas.above.append(f'<text class="text" x="{canvas.x + 12:g}" y="{below + 5}">…</text>')
    canvas.x += 24
    canvas.box("N")
    last = canvas.x + 26
    canvas.below.append(f'<path class="line" d="M{canvas.x:g} {below}H{last:g}V{first + 12}"/>')
    canvas.above.append(arrow(last, first + 11, "up"))
    canvas.y, canvas.x = first, right
    canvas.go(last - 33)
    canvas.node("+")
    return below + 16


def main() -> None:
    """Write all drawings."""
    DRAWINGS.mkdir(exist_ok=True)
    for name, drawing in PLACEMENTS.items():
        (DRAWINGS / f"{name}.svg").write_text(draw(name, drawing), encoding="utf-8")


if __name__ == "__main__":
    main()
