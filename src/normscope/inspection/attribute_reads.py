"""Attributes of submodules that a module's code reads directly, found in its source."""

import ast
from collections.abc import Sequence

from torch import nn

from normscope.inspection.source import code_of

_METADATA = {"dtype", "device"}
"""Attributes of a parameter that can be read without computing with its values."""
_SAME_ITEMS = {"list", "tuple", "reversed", "iter"}
"""Functions that return the items of their argument."""
_ANY = "*"

AttributePath = tuple[str, ...]
"""Attribute names, starting from ``self``; a star for an item of a list."""
_Names = dict[str, set[AttributePath]]
"""From local names to the attributes that they may refer to."""


def parameter_reads(module: nn.Module) -> dict[tuple[str, str], tuple[str, bool]]:
    """Find where a module's code reads attributes of its submodules instead of calling them.

    Local names are followed (``k = self.norm``), as are loops and comprehensions over lists (also through
    ``enumerate``, ``zip``, ``items`` and ``values``), indices and ``getattr``. Arguments of other functions are not.

    Args:
        module: The module whose code is read.

    Returns:
        From the path of a submodule and an attribute's name, as in ``self.norm1.weight`` or, with a star for any item,
        ``self.norms.*.weight``, to file and line, and whether the value is read and not only its dtype or device.
    """
    reads: dict[tuple[str, str], tuple[str, bool]] = {}
    for code in code_of(type(module)):
        if code.self_name is None:
            continue
        for key, line, value in _Reader(code.self_name).read(code.tree):
            if key not in reads or (value and not reads[key][1]):
                reads[key] = f"{code.file}:{code.line + line - 1}", value
    return reads


def is_at(place: Sequence[str], path: str) -> bool:
    """Return whether a path with stars matches the names that lead from a module to a submodule."""
    parts = path.split(".")
    return len(parts) == len(place) and all(part in (_ANY, name) for part, name in zip(parts, place, strict=True))


class _Reader(ast.NodeVisitor):
    """Walks through a method in the order of its lines and tracks what its local names refer to."""

    def __init__(self, self_name: str) -> None:
        self.names: _Names = {self_name: {()}}
        self.metadata: set[int] = set()
        self.reads: list[tuple[tuple[str, str], int, bool]] = []

    def read(self, tree: ast.AST) -> list[tuple[tuple[str, str], int, bool]]:
        """Return every path and attribute, its line, and whether the value is read."""
        self.visit(tree)
        return self.reads

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _METADATA:
            self.metadata.add(id(node.value))
        for path in _paths(node.value, self.names):
            if path:
                self.reads.append(((".".join(path), node.attr), node.lineno, id(node) not in self.metadata))
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
        # A loop variable refers to the items only inside the loop.
        targets = (name.id for name in ast.walk(node.target) if isinstance(name, ast.Name))
        self.names |= {name: before.get(name, set()) for name in targets}

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
        """Visit lines that may be skipped, merging what names refer to; return what they referred to before."""
        before, after = self.names, dict(self.names)
        self.names = dict(before if start is None else start)
        for line in body:
            self.visit(line)
        for name, paths in self.names.items():
            after[name] = after.get(name, set()) | paths
        self.names = after
        return before

    def _bind(self, target: ast.AST, value: ast.AST) -> None:
        """Record what is assigned to a name, or to each of several names."""
        if isinstance(target, ast.Name):
            self.names[target.id] = _paths(value, self.names)
        elif isinstance(target, ast.Tuple | ast.List):
            given = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            assigned = [_paths(each, self.names) for each in given]
            if len(assigned) != len(target.elts):
                assigned = [set()] * len(target.elts)
            for element, paths in zip(target.elts, assigned, strict=True):
                if isinstance(element, ast.Name):
                    self.names[element.id] = paths

    def _bind_items(self, target: ast.AST, value: ast.AST) -> None:
        """Record what a name receives from a list, or each of several names from several lists."""
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
            for element, each in zip(target.elts, given, strict=False):
                self._bind_items(element, each)
        elif called in {"items", "named_children"} and len(target.elts) == 2:
            self._bind_items(target.elts[1], value)


def _items(node: ast.AST, names: _Names) -> set[AttributePath]:
    """Return what the items of an expression refer to."""
    if isinstance(node, ast.Call):
        called = _name_of(node.func)
        if called in _SAME_ITEMS and node.args:
            return _items(node.args[0], names)
        if called in {"values", "children", "items", "named_children"} and isinstance(node.func, ast.Attribute):
            return {(*path, _ANY) for path in _paths(node.func.value, names)}
        return set()
    if isinstance(node, ast.Tuple | ast.List):
        return {path for item in node.elts for path in _paths(item, names)}
    return {(*path, _ANY) for path in _paths(node, names) if path}


def _paths(node: ast.AST, names: _Names) -> set[AttributePath]:
    """Return the attributes that an expression refers to; an empty set for computed values."""
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
    """Return the last name of a dotted expression."""
    return getattr(node, "attr", getattr(node, "id", None))
