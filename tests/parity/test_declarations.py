# SPDX-License-Identifier: GPL-2.0-or-later
"""What build_ffi.py and vendor_headers/ declare, against libnl's and the kernel's real headers."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import libnlplug
from libnlplug.netlink.libnl import ffi, lib
from tests.support.parity import FUNCTIONS, NotCompiled, compile_c, functions

ROOT = Path(__file__).resolve().parents[2]
INCLUDE_OWN = f"-I{ROOT / 'libnlplug'}"
LIBNL = ("libnl-3.0", "libnl-route-3.0")


def libnl_headers(*vendored: Path) -> str:
    """Include lines for the headers of libnl that the vendored ones name in their comments."""
    names = {name for file in vendored for name in re.findall(r"netlink/[\w/.-]+\.h", file.read_text())}
    assert names
    return "".join(f"#include <{name}>\n" for name in sorted(names))


def module_headers() -> str:
    """The include lines of the module's own source, without those of the vendored headers."""
    lines = re.findall(r"#include \S+", (ROOT / "build_ffi.py").read_text())
    return "".join(f"{line}\n" for line in lines if f'"{FUNCTIONS.name}"' not in line)


def constants() -> list[str]:
    return [name for name in dir(lib) if isinstance(getattr(lib, name), int)]


def compile_together(declarations: str, directory: Path) -> None:
    """Compile one unit in which the real headers come first, every name is used, and ``declarations`` come last."""
    uses = "".join(f"__typeof__({name}) *const real_{name} = {name};\n" for name in functions(declarations))
    unit = directory / "together.c"
    headers = module_headers() + libnl_headers(FUNCTIONS)
    unit.write_text(f"#define _GNU_SOURCE\n{headers}\n{uses}\n{declarations}")
    compile_c(directory / "together.o", "-c", INCLUDE_OWN, unit, packages=LIBNL)


def values(directory: Path, headers: str, expressions: dict[str, str], *options: str) -> dict[str, int]:
    """What the compiler takes each expression for, by name."""
    lines = "".join(f'printf("{name} %lld\\n", (long long)({text}));\n' for name, text in expressions.items())
    unit = directory / "values.c"
    unit.write_text(f"#define _GNU_SOURCE\n#include <stdio.h>\n{headers}\nint main(void) {{\n{lines}return 0; }}\n")
    program = compile_c(directory / "values", *options, unit, packages=LIBNL)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in map(str.split, printed.splitlines())}


def test_vendored_functions_are_those_of_the_real_headers(tmp_path: Path) -> None:
    """Every vendored function is declared in libnl's own headers, with the same type."""
    compile_together(FUNCTIONS.read_text(), tmp_path)


def test_every_function_is_compared() -> None:
    """The comparison finds every libnl function that the module has, and each is declared once."""
    found = functions(FUNCTIONS.read_text())
    assert len(found) == len(set(found))
    assert set(found) <= set(dir(lib))
    others = set(dir(lib)) - set(found) - set(constants())
    assert not {name for name in others if name.startswith(("nl_", "nla_", "nlmsg_", "genl_", "rtnl_"))}


@pytest.mark.parametrize(
    "wrong",
    [
        "int rtnl_tc_get_ifindex(struct rtnl_tc *tc, int more);",
        "void rtnl_qdisc_plug_buffer(struct rtnl_qdisc *qdisc);",
        "int rtnl_qdisc_plug_set_limit(struct rtnl_qdisc *qdisc, uint32_t limit);",
        "int rtnl_qdisc_plug_no_such_function(struct rtnl_qdisc *qdisc);",
    ],
)
def test_a_wrong_declaration_does_not_compile(wrong: str, tmp_path: Path) -> None:
    """A declaration with another type, or of a function that libnl does not have, is refused by the comparison."""
    with pytest.raises(NotCompiled, match=r"conflicting types|undeclared"):
        compile_together(wrong, tmp_path)


def test_constants_are_those_of_the_real_headers(tmp_path: Path) -> None:
    """Every constant of the module has the value that the compiler takes from the kernel's and libnl's headers."""
    in_cdef = set(re.findall(r"#define (\w+) \.\.\.", (ROOT / "build_ffi.py").read_text()))
    assert in_cdef
    assert in_cdef <= set(constants())
    headers = module_headers() + libnl_headers(FUNCTIONS)
    real = values(tmp_path, headers, {name: name for name in constants()}, INCLUDE_OWN)
    assert {name: getattr(lib, name) for name in constants()} == real


def stub() -> dict[str, ast.stmt]:
    """The members that _libnl.pyi gives to ``lib``."""
    tree = ast.parse((Path(libnlplug.__file__).parent / "_libnl.pyi").read_text())
    (declared,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Lib"]
    return {
        node.target.id if isinstance(node, ast.AnnAssign) else node.name: node  # type: ignore[attr-defined]
        for node in declared.body
    }


def test_type_stub_names_what_the_module_has() -> None:
    """_libnl.pyi gives ``lib`` exactly the names that the compiled module has."""
    assert set(stub()) == set(dir(lib))


def test_type_stub_has_the_arguments_of_c() -> None:
    """Each function of _libnl.pyi takes as many arguments as the C function."""
    taken = {name: len(node.args.args) - 1 for name, node in stub().items() if isinstance(node, ast.FunctionDef)}
    assert taken == {name: len(ffi.typeof(getattr(lib, name)).args) for name in taken}
    assert len(taken) > 50
