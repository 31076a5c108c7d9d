"""What a person types in one word: seeds, shapes, a list of norms."""

MOST_SEEDS = 10_000
"""A study of more is a slip of the finger."""


def parse_seeds(text: str) -> list[int]:
    """Read seeds such as ``0-9`` or ``3,5,8-10``.

    Raises:
        ValueError: If the text has another form, counts down, or names more than :data:`MOST_SEEDS`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise ValueError(f"seeds are written as 0-9 or 3,5,8, got {text!r}")
        if len(seeds) + int(last or first) - int(first) >= MOST_SEEDS:
            raise ValueError(f"a study may have {MOST_SEEDS} seeds at most, got {text!r}")
        seeds.extend(range(int(first), int(last or first) + 1))
    return seeds


def parse_counts(text: str) -> list[int]:
    """Read whole numbers such as ``0,500,4000``; none from an empty text.

    Raises:
        ValueError: If the text has another form.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"numbers are written as 0,500,4000, got {text!r}")
    return [int(part) for part in parts]


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """Read shapes such as ``4096x512,64x1000``.

    Raises:
        ValueError: If the text has another form, or a size is below one.
    """
    shapes = []
    for part in text.split(","):
        rows, _, width = part.strip().partition("x")
        if not (rows.isdecimal() and width.isdecimal() and int(rows) and int(width)):
            raise ValueError(f"shapes are written as 4096x512,64x1000, got {text!r}")
        shapes.append((int(rows), int(width)))
    return shapes


def split_norms(text: str) -> list[str]:
    """Split a list of norms at the commas that stand outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
