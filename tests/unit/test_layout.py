# SPDX-License-Identifier: GPL-2.0-or-later
"""The rooms of the package: what imports what, and nobody reaches into another's underscored names."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import libnlplug
from libnlplug.netlink.libnl import lib

PACKAGE = Path(libnlplug.__file__).parent

# A module may import from its own floor's room and from the floors below. (_libnl is the compiled module.)
FLOORS = (
    ("__main__",),
    ("command", "pytest_plugin"),
    ("doctor", "lane", "group"),
    ("attaching",),
    ("plug",),
    ("hold",),
    ("guard",),
    ("plug_qdisc",),
    ("netlink",),
    ("errors", "bounds", "record", "async_with", "_version", "_libnl"),
)
NOTHING = ("errors", "bounds", "record", "async_with", "_version")
LIGHT = ("command", "command.table", "command.parser", "command.units", "command.output", "command.completion")
# What these may import. The last ones work without libnl.
ONLY = {"plug_qdisc": {"netlink.libnl", "errors"}, **dict.fromkeys(NOTHING, set())}
ONLY |= dict.fromkeys(LIGHT, {*LIGHT, "command.advice", "command.manual", "bounds", "errors", "_version"})
ONLY_FROM = {"_libnl": {"netlink.libnl"}, "plug_qdisc": set()}  # who may import these
USES_THE_FACE = {"pytest_plugin"}  # as a program does
LOADS_BY_NAME = {"", "command"}  # the face, and the command, load a module when it is first needed

LONGEST = 60  # lines of a function

Sources = dict[str, str]


def sources() -> Sources:
    """The text of every module by its name within the package; "" is the face."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return found


PACKAGES = {"", *(".".join(path.parent.relative_to(PACKAGE).parts) for path in PACKAGE.glob("*/__init__.py"))}


@functools.cache
def imports(name: str, text: str, names: frozenset[str]) -> set[str]:
    """The modules of the package that a module imports, at the top, in functions, or for type checkers only. A name
    from the face is its module's; "" is the face as a whole."""
    package = name.split(".") if name in PACKAGES else name.split(".")[:-1]
    found = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            modules = {alias.name[len("libnlplug") :].lstrip(".") for alias in node.names if ours(alias.name)}
            found |= modules | {""} if modules else set()  # it binds the face
        elif isinstance(node, ast.ImportFrom) and (node.level or ours(node.module or "")):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [part for part in (node.module or "").split(".") if part and part != "libnlplug"]
            whole = ".".join([*base, *module])
            for alias in node.names:
                deeper = f"{whole}.{alias.name}".strip(".")
                module_of = whole or libnlplug._MODULE_OF.get(alias.name, "").lstrip(".")
                found.add(deeper if deeper in names else module_of)
    return found - {name}


def ours(module: str) -> bool:
    """Whether it is the package or one of its modules."""
    return module.split(".")[0] == "libnlplug"


def graph(texts: Sources) -> dict[str, set[str]]:
    """What each module but the face imports."""
    names = frozenset(texts) - {""} | {"_libnl"}
    return {name: set(imports(name, text, names)) for name, text in texts.items() if name}


@functools.cache
def parsed(text: str) -> ast.Module:
    """The syntax tree."""
    return ast.parse(text)


def floor(name: str) -> int:
    """Which floor a module is on."""
    (number,) = [number for number, rooms in enumerate(FLOORS) if name.split(".")[0] in rooms]
    return number


def arrows(texts: Sources) -> list[str]:
    """The imports that may not be: from a neighbour on the floor or from above, the face, and those of ONLY."""
    wrong = []
    for name, others in graph(texts).items():
        for other in others:
            if not other:
                allowed = name in USES_THE_FACE
            elif name in ONLY:
                allowed = other in ONLY[name]
            elif other in ONLY_FROM:
                allowed = name in ONLY_FROM[other]
            else:
                allowed = name.split(".")[0] == other.split(".")[0] or floor(other) > floor(name)
            if not allowed:
                wrong.append(f"{name} imports {other or 'the face'}")
    return wrong


def circle(texts: Sources) -> list[str]:
    """The modules from which the imports lead back, within a room too. The command loads its verbs by their names."""
    left = graph(texts)
    left["command"] |= {f"command.{module}" for module in re.findall(r'"(\w+)\.\w+"', texts["command.table"])}
    while leaves := [name for name, others in left.items() if not others & set(left)]:
        for name in leaves:
            del left[name]
    return sorted(left)


def reaches(texts: Sources) -> list[str]:
    """Where a module uses the underscored names of another: imported, as an attribute of an object that is not its own,
    or by their names; and where it loads a module by its name."""
    return [one for name, text in texts.items() for one in reaches_in(name, text)]


@functools.cache
def reaches_in(name: str, text: str) -> list[str]:
    """Those of one module."""
    wrong = [f"{name}:{one.lineno} {one.arg} is an argument" for one in misnamed(parsed(text))]
    for scope in parsed(text).body:
        own = own_objects(parsed(text), scope)
        for node in ast.walk(scope):
            if is_reach(node, own) or (name not in LOADS_BY_NAME and is_by_name(node, own)):
                wrong.append(f"{name}:{getattr(node, 'lineno', 0)} {ast.unparse(node)}")
    return wrong


def misnamed(tree: ast.Module) -> list[ast.arg]:
    """The arguments that are called ``self`` or ``cls`` and are not the first of a method."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = [one for node in classes for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
    first = [one.args.args[0] for one in methods if one.args.args]
    every = [node for node in ast.walk(tree) if isinstance(node, ast.arg) and node.arg in ("self", "cls")]
    return [one for one in every if one not in first]


def own_objects(tree: ast.Module, scope: ast.AST) -> set[str]:
    """The names of objects whose underscored attributes are the module's own: ``self``, ``cls``, its classes, and what
    this function or class makes of them by ``name = Class(...)`` or ``name = cls.__new__(cls)``."""
    classes = {one.name for one in tree.body if isinstance(one, ast.ClassDef)}
    made = {
        node.targets[0].id
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) in {*classes, "cls.__new__"}
    }
    return {"self", "cls", *classes, *made}


def is_reach(node: ast.AST, own: set[str]) -> bool:
    """Whether it uses an underscored name of another module or object, or calls another object ``self`` or ``cls``."""
    if isinstance(node, ast.ImportFrom) and (node.level or ours(node.module or "")):
        return any(underscored(one.name) and one.name not in ("_libnl", "_version") for one in node.names)
    if isinstance(node, ast.Attribute) and underscored(node.attr):
        of_own = isinstance(node.value, ast.Name) and node.value.id in own
        return not of_own and ast.unparse(node) != "os._exit"
    if isinstance(node, getattr(ast, "MatchClass", ())):  # since Python 3.10
        return any(map(underscored, node.kwd_attrs))
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in ("self", "cls")


BY_NAME = ("exec", "eval", "__import__", "importlib", "import_module", "pkgutil", "attrgetter", "__dict__")
BY_NAME += ("__getattribute__", "runpy")
OPEN = ("lib", "args")  # whose names are composed: libnl's constants, and a command line's options


def is_by_name(node: ast.AST, own: set[str]) -> bool:
    """Whether it loads a module by its name, or takes an attribute by a name that is underscored or not written out."""
    if isinstance(node, ast.Name):
        return node.id in BY_NAME
    if isinstance(node, ast.Attribute):
        return ast.unparse(node.value) == "sys.modules" or (
            node.attr in BY_NAME and ast.unparse(node.value) not in OPEN
        )
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        module = node.module if isinstance(node, ast.ImportFrom) else ""
        return bool({module, *(alias.name for alias in node.names)} & set(BY_NAME))
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value) == "sys.modules"
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
        of, name, *_ = node.args
        written = isinstance(name, ast.Constant) and isinstance(name.value, str)
        return underscored(name.value) if written else ast.unparse(of) not in {*own, *OPEN}
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and ast.unparse(node.args[0]) not in OPEN


def underscored(name: str) -> bool:
    """Whether the name is a private one."""
    return name.startswith("_") and not name.startswith("__")


def test_every_module_has_a_floor() -> None:
    """No module stands outside of the rooms, and the graph is not empty."""
    found = graph(sources())
    assert len(found) > 30
    assert all(floor(name) >= 0 for name in found)
    assert "hold" in found["plug"]


def test_no_arrow_points_up() -> None:
    """A module imports from its own room and from lower floors, never from a neighbour on its floor or from above."""
    assert arrows(sources()) == []


def test_there_is_no_circle() -> None:
    """Following the imports never leads back, within a room either."""
    assert circle(sources()) == []


def test_no_room_uses_anothers_underscored_names() -> None:
    """What a neighbour needs is part of a room's face."""
    assert reaches(sources()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("netlink.netns", "from .. import attach"),
        ("netlink.netns", "from libnlplug import attach"),
        ("netlink.netns", "if TYPE_CHECKING:\n    from ..plug import PlugQdisc"),
        ("plug_qdisc", "from libnlplug import attach"),
        ("plug_qdisc", "from ._libnl import lib"),
        ("netlink.netns", "import libnlplug; libnlplug.attach"),
        ("netlink.netns", "import libnlplug.plug"),
        ("netlink.netns", "import importlib; importlib.import_module('libnlplug.plug')"),
        ("group", "from libnlplug.plug import _checked"),
        ("group", "from .plug import _checked"),
        ("hold", "def f(self): self._held._guard"),
        ("group", "def f(self): self._plugs[0]._sk"),
        ("group", "def f(plug): plug._sk"),
        ("group", "def f(plug): getattr(plug, '_buffer')"),
        ("group", "def f(plug, name): getattr(plug, name)"),
        ("group", "def f(plug): vars(plug)['_sk']"),
        ("group", "def f(plug): plug.__dict__['_sk']"),
        ("group", "from operator import attrgetter"),
        ("group", "def f(plug): object.__getattribute__(plug, '_sk')"),
        ("group", "def f(plugs): return [self._sk for self in plugs]"),
        ("group", "def f(plug):\n    cls = plug\n    cls._sk"),
        ("group", "def f(): plug = PlugGroup(())\ndef g(plug): plug._sk"),
        ("group", "def f(plugs): return sorted(plugs, key=lambda self: self._sk)"),
        ("group", "def f(self): return self._sk"),
        ("group", "class Other:\n    def f(this, self): return self._sk"),
        ("group", "import sys; sys.modules.get('libnlplug.plug')"),
        ("group", "import runpy"),
        ("netlink.netns", "import libnlplug.errors"),
        ("netlink.netns", "from importlib import import_module as load"),
        ("netlink.netns", "load = __import__"),
        ("netlink.netns", "exec('from ..plug import PlugQdisc')"),
        ("netlink.netns", "import sys; sys.modules['libnlplug.plug']"),
        ("command.verbs", "from . import main"),
        ("command.table", "from ..plug import PlugQdisc"),
        ("group", "from . import plug_qdisc"),
        ("lane.match", "from ..doctor import examine"),
        ("lane.match", "def f(): from .lane import PlugLane"),
        ("pytest_plugin", "from libnlplug._libnl import ffi"),
    ],
)
def test_a_breach_is_found(module: str, line: str) -> None:
    """Each of these is an import or a reach that the tests above do not let pass."""
    texts = sources()
    texts[module] += f"\n{line}\n"
    assert arrows(texts) + reaches(texts) or circle(texts)


def test_no_function_has_the_name_of_another_module() -> None:
    """``table`` is a module of the command, so none of its other modules has a function table(). A module's own name is
    free: show.show(). (pytest calls fixtures by their functions' names.)"""
    texts = sources()
    twins = []
    for name, text in texts.items():
        room, _, own = name.rpartition(".")
        neighbours = {other.rpartition(".")[2] for other in texts if other.rpartition(".")[0] == room} - {own}
        if name != "pytest_plugin":
            kinds = (ast.FunctionDef, ast.ClassDef)
            defined = [node.name for node in parsed(text).body if isinstance(node, kinds)]
            twins += [f"{name}.{one}" for one in defined if one in neighbours]
    assert twins == []


def test_what_is_bound_is_used() -> None:
    """Every function and constant of _libnl is used by a module, by the C that is compiled into it, or by the guard,
    with which it shares protocol.h. (The names of flower's keys for addresses and ports are composed.)"""
    compiled = "".join(
        re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.S) for path in PACKAGE.glob("*/*.c")
    )
    used = set(re.findall(r"\blib\.(\w+)", "".join(sources().values()))) | set(re.findall(r"\w+", compiled))
    composed = re.compile(r"TCA_FLOWER_KEY_(IPV[46]|PORT|TCP|UDP|SCTP)_(SRC|DST)")
    assert [name for name in dir(lib) if name not in used and not composed.match(name)] == []


def test_no_function_is_long() -> None:
    """No function of the package has more than 60 lines, in Python or in C."""
    long = []
    for name, text in sources().items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= LONGEST:
                long.append(f"{name}.{node.name}")
    for path in PACKAGE.glob("*/*.c"):
        for body in re.findall(r"^\{\n.*?^\}$", path.read_text(), re.M | re.S):
            if body.count("\n") >= LONGEST:
                long.append(f"{path.name}: {body[:80]}")
    assert long == []


def test_the_stub_has_the_public_names() -> None:
    """Type checkers see exactly the names of the table, each from the module that has it."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    seen = {alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == libnlplug._MODULE_OF
