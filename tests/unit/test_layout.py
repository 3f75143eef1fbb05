# SPDX-License-Identifier: GPL-2.0-or-later
"""The rooms of the package: what imports what, and nobody reaches into another's underscored names."""

from __future__ import annotations

import ast
from pathlib import Path

import libnlplug

PACKAGE = Path(libnlplug.__file__).parent

# A module may import from its own floor's room and from the floors below. (_libnl is the compiled module.)
FLOORS = (
    ("__main__",),
    ("command", "pytest_plugin"),
    ("doctor", "lane", "group"),
    ("plug",),
    ("hold",),
    ("guard",),
    ("plug_qdisc",),
    ("netlink",),
    ("errors", "record", "async_with", "_version", "_libnl"),
)
NOTHING = ("errors", "record", "async_with", "_version")
ONLY = {"plug_qdisc": {"netlink.libnl", "errors", "_libnl"}, **dict.fromkeys(NOTHING, set())}


def modules() -> dict[str, Path]:
    """Every module by its name within the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:  # the package's own is a table of names, loaded when first used
            found[name] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """The modules of the package that a module imports, at the top, in functions, or for type checkers only."""
    names = set(modules()) | {"_libnl"}
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "libnlplug":
                base = []
            else:
                continue
            module = [part for part in (node.module or "").split(".") if part and part != "libnlplug"]
            whole = ".".join([*base, *module])
            for alias in node.names:
                deeper = f"{whole}.{alias.name}".strip(".")
                found.add(deeper if deeper in names else whole)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("libnlplug.")}
    return found - {"", name}


GRAPH = {name: imports(name, path) for name, path in modules().items()}


def floor(name: str) -> int:
    """Which floor a module is on."""
    (number,) = [number for number, rooms in enumerate(FLOORS) if name.split(".")[0] in rooms]
    return number


def test_every_module_has_a_floor() -> None:
    """No module stands outside of the rooms, and the graph is not empty."""
    assert len(GRAPH) > 30
    assert all(floor(name) >= 0 for name in GRAPH)
    assert GRAPH["plug"]


def test_no_arrow_points_up() -> None:
    """A module imports from its own room and from lower floors, never from a neighbour on its floor or from above."""
    wrong = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if name.split(".")[0] != other.split(".")[0] and floor(other) <= floor(name)
    ]
    assert wrong == []
    for name, allowed in ONLY.items():
        assert GRAPH[name] <= allowed, name


def test_there_is_no_circle() -> None:
    """Following the imports never leads back, within a room either."""
    left = {name: set(others) for name, others in GRAPH.items()}
    while leaves := [name for name, others in left.items() if not others & set(left)]:
        for name in leaves:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


def test_no_room_uses_anothers_underscored_names() -> None:
    """What a neighbour needs is part of a room's face: no import of an underscored name, no such attribute of another
    object (``self``, ``cls`` and one's own class are one's own)."""
    wrong = []
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and of_self(node)}
        own |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                taken = [alias.name for alias in node.names if underscored(alias.name)]
                allowed = {"_libnl", "_version"} if (node.level or 0) else set(taken)
                wrong += [f"{name} imports {one}" for one in taken if one not in allowed]
            elif isinstance(node, ast.Attribute) and underscored(node.attr) and node.attr not in {*own, "_exit"}:
                wrong.append(f"{name}:{node.lineno} {ast.unparse(node)}")
    assert wrong == []


def of_self(node: ast.Attribute) -> bool:
    """Whether it is an attribute of ``self`` or ``cls``."""
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def underscored(name: str) -> bool:
    """Whether the name is a private one."""
    return name.startswith("_") and not name.startswith("__")


def test_the_stub_has_the_public_names() -> None:
    """Type checkers see exactly the names of the table, each from the module that has it."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    seen = {alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == libnlplug._MODULE_OF
