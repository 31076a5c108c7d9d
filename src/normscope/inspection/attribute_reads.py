"""Where a module's code reads the numbers of what stands in it, instead of calling it; found by reading the source."""

import ast
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from normscope.inspection.source import code_of

_ABOUT = {"dtype", "device"}
"""What may be asked of a parameter without computing with it."""
_AS_IT_IS = {"list", "tuple", "reversed", "iter"}
"""Functions whose items are those of their argument."""
_ANY = "*"

Path = tuple[str, ...]
"""Names from ``self`` on; a star for an item of a list."""
_Names = dict[str, set[Path]]
"""What local names may stand for."""


def parameter_reads(module: nn.Module) -> dict[tuple[str, str], tuple[str, bool]]:
    """Find where a module's code reads something of what stands in it directly, instead of calling that.

    Local names are followed (``k = self.norm``), loops and comprehensions over lists (also through ``enumerate``,
    ``zip``, ``items`` and ``values``), indices and ``getattr``. What is handed to another function is not.

    Args:
        module: The one whose code is read.

    Returns:
        From a place and an attribute's name, as in ``self.norm1.weight`` or, with a star for any item,
        ``self.norms.*.weight``, to file and line, and whether it is the value that is read, not only its dtype or
        device.
    """
    reads: dict[tuple[str, str], tuple[str, bool]] = {}
    for code in code_of(type(module)):
        if code.own is None:
            continue
        for key, line, value in _Reader(code.own).read(code.tree):
            if key not in reads or (value and not reads[key][1]):
                reads[key] = f"{code.file}:{code.line + line - 1}", value
    return reads


def is_at(place: Sequence[str], path: str) -> bool:
    """Return whether a place in a module, as a list of names, is one that a path with stars means."""
    parts = path.split(".")
    return len(parts) == len(place) and all(one in (_ANY, other) for one, other in zip(parts, place, strict=True))


class _Reader(ast.NodeVisitor):
    """Goes through a method in the order of its lines, and knows what its local names stand for."""

    def __init__(self, own: str) -> None:
        self.names: _Names = {own: {()}}
        self.about: set[int] = set()
        self.found: list[tuple[tuple[str, str], int, bool]] = []

    def read(self, tree: ast.AST) -> list[tuple[tuple[str, str], int, bool]]:
        """Give place and attribute, line, and whether it is the value that is read."""
        self.visit(tree)
        return self.found

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _ABOUT:
            self.about.add(id(node.value))
        for path in _paths(node.value, self.names):
            if path:
                self.found.append(((".".join(path), node.attr), node.lineno, id(node) not in self.about))
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._bind(node.target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind(node.target, node.value)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        before = self._go(node.body)
        self._go(node.orelse, start=before)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self._go([*node.body, *node.orelse])

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        before = dict(self.names)
        self._bind_items(node.target, node.iter)
        self._go([*node.body, *node.orelse], start=None)
        # A name that goes through a list stands for its items no longer than the loop.
        self.names |= {one.id: before.get(one.id, set()) for one in ast.walk(node.target) if isinstance(one, ast.Name)}

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        before = dict(self.names)
        for each in node.generators:
            self.visit(each.iter)
            self._bind_items(each.target, each.iter)
            for test in each.ifs:
                self.visit(test)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(part)
        self.names = before

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def _go(self, body: Sequence[ast.AST], start: _Names | None = None) -> _Names:
        """Go through lines that may be left out: names then stand for what they did, too; give what that was."""
        before, after = self.names, dict(self.names)
        self.names = dict(before if start is None else start)
        for line in body:
            self.visit(line)
        for name, paths in self.names.items():
            after[name] = after.get(name, set()) | paths
        self.names = after
        return before

    def _bind(self, target: ast.AST, value: ast.AST) -> None:
        """Note what a name is given, or each of several names."""
        if isinstance(target, ast.Name):
            self.names[target.id] = _paths(value, self.names)
        elif isinstance(target, ast.Tuple | ast.List):
            given = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            told = [_paths(each, self.names) for each in given]
            if len(told) != len(target.elts):
                told = [set()] * len(target.elts)
            for one, paths in zip(target.elts, told, strict=True):
                if isinstance(one, ast.Name):
                    self.names[one.id] = paths

    def _bind_items(self, target: ast.AST, value: ast.AST) -> None:
        """Note what a name gets from a list, or each of several names from several lists."""
        if isinstance(target, ast.Name):
            self.names[target.id] = _items(value, self.names)
            return
        if not isinstance(target, ast.Tuple | ast.List):
            return
        called = _name_of(value.func) if isinstance(value, ast.Call) else None
        given = value.args if isinstance(value, ast.Call) else []
        if called == "enumerate" and len(target.elts) == 2 and given:
            self._bind_items(target.elts[1], given[0])
        elif called == "zip":
            for one, each in zip(target.elts, given, strict=False):
                self._bind_items(one, each)
        elif called in {"items", "named_children"} and len(target.elts) == 2:
            self._bind_items(target.elts[1], value)


def _items(node: ast.AST, names: _Names) -> set[Path]:
    """Give what the items of an expression stand for."""
    if isinstance(node, ast.Call):
        called = _name_of(node.func)
        if called in _AS_IT_IS and node.args:
            return _items(node.args[0], names)
        if called in {"values", "children", "items", "named_children"} and isinstance(node.func, ast.Attribute):
            return {(*path, _ANY) for path in _paths(node.func.value, names)}
        return set()
    if isinstance(node, ast.Tuple | ast.List):
        return {path for item in node.elts for path in _paths(item, names)}
    return {(*path, _ANY) for path in _paths(node, names) if path}


def _paths(node: ast.AST, names: _Names) -> set[Path]:
    """Give what an expression stands for, as names from ``self`` on; nothing for what is computed."""
    if isinstance(node, ast.Name):
        return names.get(node.id, set())
    if isinstance(node, ast.Attribute):
        return {(*path, node.attr) for path in _paths(node.value, names)}
    if isinstance(node, ast.Subscript):
        inside = _paths(node.value, names)
        return inside if isinstance(node.slice, ast.Slice) else {(*path, _ANY) for path in inside if path}
    if isinstance(node, ast.IfExp):
        return _paths(node.body, names) | _paths(node.orelse, names)
    if isinstance(node, ast.NamedExpr):
        return _paths(node.value, names)
    if isinstance(node, ast.Call) and _name_of(node.func) == "getattr" and len(node.args) > 1:
        asked = node.args[1]
        name = asked.value if isinstance(asked, ast.Constant) else _ANY
        return {(*path, str(name)) for path in _paths(node.args[0], names)}
    return set()


def _name_of(node: ast.AST) -> str | None:
    """Return the last name of what is called."""
    return getattr(node, "attr", getattr(node, "id", None))


class ChannelsFirst(nn.Module):
    """Apply a norm of ``[..., C]`` to ``[N, C, ...]``: the axis is moved there and back, and nothing else is done.

    The output lies in memory as torch's own norms lay it, so that ``x.view(len(x), -1)`` behind it goes on working:
    channels last where the input was, otherwise contiguous.

    ``weight``, ``bias`` and ``eps`` are those of the norm, for code that reads them. In the state dict the norm's keys
    stand below ``norm.``.

    Args:
        norm: Maps ``[..., C]`` to ``[..., C]``.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, ...]`` to ``[N, C, ...]``.

        Args:
            x: Two axes or more, the features on axis 1.

        Returns:
            What the norm gives, with the features on axis 1.

        Raises:
            ValueError: If ``x`` has fewer than two axes.
        """
        if x.dim() < 2:
            raise ValueError(f"{type(self).__name__} expects [N, C, ...], got {list(x.shape)}")
        moved = x.movedim(1, -1)
        y = self.norm(moved)
        if x.dim() in {4, 5} and moved.is_contiguous() and not x.is_contiguous():
            return y.contiguous().movedim(-1, 1)
        return y.movedim(-1, 1).contiguous()

    def __getattr__(self, name: str) -> Any:
        if name in {"weight", "bias", "eps", "normalized_shape"}:
            return getattr(super().__getattr__("norm"), name)
        return super().__getattr__(name)
