"""Draw the recurrent cells: ``python docs/scripts/draw_cells.py`` writes docs/drawings/cells/<cell>_<places>.svg.

Where norms stand is read from ``normscope.recurrent.PLACES``. A box N is one norm; boxes on top of each other share
the vector that comes in.
"""

from dataclasses import dataclass
from html import escape

from draw_placements import DRAWINGS, STYLE, Canvas, arrow

from normscope.recurrent import PLACES, Places

CELLS = DRAWINGS / "cells"
GATES = "i f g o = "
READ = "h = σ(o) tanh(N(c))"
CARRIED = "c = N(σ(f) c + σ(i) tanh(g));  h = σ(o) tanh(c)"
EQUATIONS = {
    ("RNN", "paper"): "h = f(N(W_h h + W_x x) + b)",
    ("RNN", "apart"): "h = f(N(W_h h) + N(W_x x) + b)",
    ("LSTM", "paper"): f"{GATES}N(W_h h) + N(W_x x) + b;  {READ}",
    ("LSTM", "read-out"): f"{GATES}W_h h + W_x x + b;  {READ}",
    ("LSTM", "per gate"): f"{GATES}N(W_h h) + N(W_x x) + b, N of each gate;  {READ}",
    ("LSTM", "kiros"): f"{GATES}N(W_h h) + N(W_x x + b) + b;  {READ}",
    ("LSTM", "fastrnns"): f"{GATES}N(W_h h) + N(W_x x);  {CARRIED}",
    ("LSTM", "tensorflow"): f"{GATES}N(W_h h + W_x x);  {CARRIED}",
    ("GRU", "paper"): "r z = σ(N(W_h h) + N(W_x x) + b);  n = tanh(N(W_x x) + b + r (N(W_h h) + b))",
    ("GRU", "reset before"): "r z = σ(N(W_h h) + N(W_x x) + b);  n = tanh(N(W_x x) + b + N(W_h (r h)) + b)",
    ("GRU", "per gate"): "as paper, with a norm for each of r, z and n",
    ("GRU", "kiros"): "r z = σ(N(W_h h + b) + N(W_x x + b));  n = tanh(N(W_x x + b) + r N(W_h h + b))",
    ("GRU", "haste"): "as paper, with one norm over r, z and n",
}
SMALL = ' style="font-size: 10px"'
WITHOUT_BIAS = {"fastrnns", "tensorflow"}
"""Places of code that has no bias."""


@dataclass
class Sheet(Canvas):
    """A drawing with rows, which bend."""

    def at(self, x: float, y: float, label: str = "") -> "Sheet":
        """Go on at a point, behind a text."""
        self.x, self.y = x, int(y)
        if label:
            self.above.append(f'<text class="text" x="{x:g}" y="{y + 5:g}">{label}</text>')
            self.x += 4.5 * len(label) + 6
        return self

    def bend(self, *points: tuple[float, float], tip: str = "") -> None:
        """Draw a line through points, from where the row is."""
        way = "".join(f"L{x:g} {y:g}" for x, y in points)
        self.below.append(f'<path class="line" d="M{self.x:g} {self.y}{way}"/>')
        self.x, self.y = points[-1][0], int(points[-1][1])
        if tip:
            self.above.append(arrow(self.x, self.y, tip))

    def tall(self, label: str, top: float, bottom: float) -> None:
        """Draw a box that spans two rows, behind a piece of line."""
        self.go(self.x + 22, tip=True)
        self.rectangle("norm" if label == "N" else "branch", top - 16, bottom + 16, 42, label)

    def norms(self, *parts: int) -> None:
        """Draw norms on top of each other, of these heights."""
        self.go(self.x + 22, tip=True)
        x, top = self.x, self.y - sum(parts) / 2
        for height in parts:
            self.x = x
            self.rectangle("norm", top, top + height, 34, "N", small=height < 16)
            top += height

    def rectangle(self, kind: str, top: float, bottom: float, width: int, label: str, *, small: bool = False) -> None:
        """Draw a box that begins here."""
        self.above.append(
            f'<rect class="{kind}" x="{self.x:g}" y="{top:g}" width="{width}" height="{bottom - top:g}" rx="4"/>'
            f'<text class="text"{SMALL if small else ""} x="{self.x + width / 2:g}" '
            f'y="{(top + bottom) / 2 + (4 if small else 5):g}">{escape(label)}</text>'
        )
        self.x += width

    def bias(self) -> None:
        """Draw the sum with a bias."""
        self.node("+")
        self.above.append(f'<text class="small" x="{self.x - 11:g}" y="{self.y - 15}">b</text>')

    def circle(self, x: float, y: float, label: str) -> None:
        """Draw a node around a point."""
        self.above.append(
            f'<circle class="node" cx="{x:g}" cy="{y:g}" r="11"/>'
            f'<text class="text" x="{x:g}" y="{y + 5:g}">{label}</text>'
        )

    def out(self, label: str) -> None:
        """End a row with what it gives."""
        self.go(self.x + 26, tip=True)
        self.above.append(f'<text class="text" x="{self.x + 32:g}" y="{self.y + 5}">{label}</text>')
        self.x += 62


def products(sheet: Sheet, places: Places, bias: bool, gates: int, top: int) -> None:
    """Draw the two products of an RNN or LSTM, their norms, their sum and the bias."""
    parts = [13] * gates if places.groups == "gates" else [32]
    ends = []
    for label, y in (("x", top), ("h", top + 60)):
        sheet.at(20, y, label).box(f"W_{label}")
        if bias and label == "x" and places.bias in ("before", "both"):
            sheet.bias()
        if places.products == "apart":
            sheet.norms(*parts)
        ends.append(sheet.x)
    x, middle = max(ends) + 30, top + 30
    for end, y, tip in zip(ends, (top, top + 60), ("down", "up"), strict=True):
        sheet.at(end, y).bend((x, y), (x, middle + (11 if tip == "up" else -11)), tip=tip)
    sheet.circle(x, middle, "+")
    sheet.at(x + 11, middle)
    if places.products == "summed":
        sheet.norms(*parts)
    if bias and places.bias in ("after", "both"):
        sheet.bias()


def draw_rnn(sheet: Sheet, places: Places, bias: bool) -> None:
    """Draw an Elman network."""
    products(sheet, places, bias, 1, 46)
    sheet.box("f")
    sheet.out("new h")


def draw_lstm(sheet: Sheet, places: Places, bias: bool) -> None:
    """Draw an LSTM: its products, its gates, and the line of the cell state."""
    products(sheet, places, bias, 4, 76)
    rows = {"o": 32, "i": 80, "g": 132, "f": 180}
    fan, middle, line = sheet.x + 20, sheet.y, 228
    sheet.go(fan)
    for gate, y in rows.items():
        sheet.at(fan, middle).bend((fan, y))
        sheet.go(fan + 18, tip=True)
        sheet.rectangle("branch", y - 14, y + 14, 46, "tanh" if gate == "g" else "σ")
        sheet.above.append(f'<text class="small" x="{sheet.x + 10:g}" y="{y - 6}">{gate}</text>')
    right = sheet.x
    near, far = right + 44, right + 92
    sheet.at(right, rows["f"]).bend((near, rows["f"]), (near, line - 11), tip="down")
    sheet.at(right, rows["i"]).bend((near, rows["i"]), (near, middle - 11), tip="down")
    sheet.at(right, rows["g"]).bend((near, rows["g"]), (near, middle + 11), tip="up")
    sheet.circle(near, middle, "×")
    sheet.at(near + 11, middle).bend((far, middle), (far, line - 11), tip="down")
    sheet.at(20, line, "c").bend((near - 11, line), tip="right")
    sheet.circle(near, line, "×")
    sheet.at(near + 11, line).bend((far - 11, line), tip="right")
    sheet.circle(far, line, "+")
    sheet.at(far + 11, line)
    if places.cell == "carried":
        sheet.norms(32)
    tap = sheet.x + 22
    sheet.go(tap)
    sheet.bend((tap, middle))
    if places.cell == "read-out":
        sheet.norms(32)
    sheet.box("tanh")
    end = sheet.x + 33
    sheet.go(end - 11, tip=True)
    sheet.circle(end, middle, "×")
    sheet.at(right, rows["o"]).bend((end, rows["o"]), (end, middle - 11), tip="down")
    sheet.at(tap, line).bend((end + 11, line))
    sheet.out("new c")
    sheet.at(end + 11, middle).out("new h")


def draw_gru(sheet: Sheet, places: Places, bias: bool) -> None:
    """Draw a GRU: the two products, each for the gates and for the candidate."""
    rows = {"x n": 44, "x rz": 96, "h rz": 168, "h n": 220}
    skip, whole, gates = 272, places.groups == "whole", (15, 15) if places.groups == "gates" else (32,)
    before = places.reset == "before"
    ends: dict[str, float] = {}
    for label in ("x", "h"):
        one, other = rows[f"{label} n"], rows[f"{label} rz"]
        center = other if before and label == "h" else (one + other) / 2
        sheet.at(20, center, label)
        if label == "h":
            split = sheet.x + 8
            sheet.at(split, center).bend((split, skip))
            if before:
                sheet.at(split, rows["h n"])
                ends["h n"] = split
            sheet.at(split - 8, center).go(split)
            sheet.x = split - 8
        low, high = (other, other) if before and label == "h" else sorted((one, other))
        sheet.tall(f"W_{label}", low, high)
        start = sheet.x
        for part in ("rz", "n"):
            if before and label == "h" and part == "n":
                continue
            sheet.at(start, rows[f"{label} {part}"])
            sheet.above.append(
                f'<text class="small" x="{start + 9:g}" y="{sheet.y - 6}">{"r z" if part == "rz" else part}</text>'
            )
            if bias and places.bias == "before":
                sheet.bias()
            if not whole:
                sheet.norms(*(gates if part == "rz" else (32,)))
            ends[f"{label} {part}"] = sheet.x
        if whole:
            for part in ("rz", "n"):
                sheet.at(start, rows[f"{label} {part}"]).go(start + 22, tip=True)
            sheet.rectangle("norm", low - 16, high + 16, 34, "N")
            ends[f"{label} n"] = ends[f"{label} rz"] = sheet.x
    middle = 132
    x = ends["x rz"] + 24
    sheet.at(ends["x rz"], rows["x rz"]).bend((x, rows["x rz"]), (x, middle - 11), tip="down")
    sheet.at(ends["h rz"], rows["h rz"]).bend((x, rows["h rz"]), (x, middle + 11), tip="up")
    sheet.circle(x, middle, "+")
    sheet.at(x + 11, middle)
    after = bias and places.bias == "after"
    if after:
        sheet.bias()
    fan = sheet.x + 18
    sheet.go(fan)
    for gate, y in (("z", middle - 24), ("r", middle + 24)):
        sheet.at(fan, middle).bend((fan, y))
        sheet.go(fan + 18, tip=True)
        sheet.rectangle("branch", y - 14, y + 14, 34, "σ")
        sheet.above.append(f'<text class="small" x="{sheet.x + 10:g}" y="{y - 6}">{gate}</text>')
    right = sheet.x
    sheet.at(ends["x n"], rows["x n"])
    if after:
        sheet.bias()
    ends["x n"] = sheet.x
    sheet.at(ends["h n"], rows["h n"])
    if after and not before:
        sheet.bias()
    meet = right + 40
    sheet.bend((meet - 11, rows["h n"]), tip="right")
    sheet.circle(meet, rows["h n"], "×")
    sheet.at(right, middle + 24).bend((meet, middle + 24), (meet, rows["h n"] - 11), tip="down")
    sheet.at(meet + 11, rows["h n"])
    if before:
        sheet.box("W_h")
        sheet.norms(*gates[:1] if places.groups != "gates" else (32,))
        if after:
            sheet.bias()
    join = sheet.x + 30
    sheet.bend((join, rows["h n"]), (join, rows["x n"] + 11), tip="up")
    sheet.at(ends["x n"], rows["x n"]).bend((join - 11, rows["x n"]), tip="right")
    sheet.circle(join, rows["x n"], "+")
    sheet.at(join + 11, rows["x n"]).box("tanh")
    sheet.above.append(f'<text class="small" x="{sheet.x + 10:g}" y="{rows["x n"] - 6}">n</text>')
    mix = sheet.x
    sheet.bend((mix + 50, rows["x n"]), (mix + 50, middle - 40), tip="down")
    sheet.at(right, middle - 24).bend((mix - 18, middle - 24), tip="right")
    sheet.at(split, skip).bend((mix + 50, skip), (mix + 50, middle - 8), tip="up")
    sheet.at(mix - 18, middle - 24).rectangle("branch", middle - 40, middle - 8, 136, "(1 − z) n + z h")
    sheet.out("new h")


DRAW = {"RNN": (draw_rnn, 180), "LSTM": (draw_lstm, 306), "GRU": (draw_gru, 350)}


def draw(cell: str, name: str) -> str:
    """Return the SVG of a cell with norms at its named places."""
    function, height = DRAW[cell]
    sheet = Sheet(y=0)
    function(sheet, PLACES[cell][name], name not in WITHOUT_BIAS)
    equation = f"{cell}, {name}:  {EQUATIONS[cell, name]}"
    width = max(sheet.x + 8, 8.6 * len(equation) + 40)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}"'
        f' role="img" aria-label="{escape(equation)}">\n<title>{escape(equation)}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="paper" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1}" rx="6"/>\n'
        + "\n".join([*sheet.below, *sheet.above])
        + f'\n<text class="equation" x="20" y="{height - 18}" xml:space="preserve">{escape(equation)}</text>\n</svg>\n'
    )


def file_of(cell: str, name: str) -> str:
    """Return the name of a drawing's file."""
    return f"{cell.lower()}_{name.replace(' ', '_').replace('-', '_')}.svg"


def main() -> None:
    """Write all drawings."""
    CELLS.mkdir(exist_ok=True)
    for cell, names in PLACES.items():
        for name in names:
            (CELLS / file_of(cell, name)).write_text(draw(cell, name), encoding="utf-8")


if __name__ == "__main__":
    main()
