# SPDX-License-Identifier: GPL-2.0-or-later
"""How the compiled parts are built: the cffi module, and the guard, a program of its own. The command itself prints its
manual page and its completions."""

import os
import re
import subprocess
import sys
from distutils.command.install_data import install_data
from distutils.errors import CompileError, LinkError

import setuptools
from setuptools import setup
from setuptools.command.build_ext import build_ext

GUARD = "libnlplug-guard"
FOLDER = os.path.join("libnlplug", "guard")
SOURCES = [os.path.join(FOLDER, name) for name in ("guard.c", "namespace.c")]
# LIBNLPLUG_GUARD=dynamic links the guard with the host's C library.
STATIC = os.environ.get("LIBNLPLUG_GUARD") != "dynamic"
PRINTED = {
    "share/man/man8/libnlplug.8": "--man",
    "share/bash-completion/completions/libnlplug": "--bash-completion",
    "share/zsh/site-functions/_libnlplug": "--zsh-completion",
    "share/fish/vendor_completions.d/libnlplug.fish": "--fish-completion",
}
# setuptools 77 and later write the licence into a field of its own.
EXPRESSION = int(setuptools.__version__.split(".")[0]) >= 77
LICENCE = {"license_expression" if EXPRESSION else "license": "GPL-2.0-or-later"}

# A package index has none of the files that the README links to: there, each link names its file in the sdist.
with open("README.md", encoding="utf-8") as readme:
    DESCRIPTION = re.sub(r"\[([^]]+)\]\((?!https?:)([^)]+)\)", r"\1 (`\2`)", readme.read())


class BuildWithGuard(build_ext):
    """build_ext, and libnlplug/guard/libnlplug-guard after it, linked statically where the C library allows it."""

    def run(self):
        super().run()
        folder = FOLDER if self.inplace else os.path.join(self.build_lib, FOLDER)
        objects = self.compiler.compile(SOURCES, output_dir=self.build_temp, extra_postargs=["-O2", "-Wall"])
        try:
            self._link(objects, folder, ["-static", "-s"] if STATIC else [])
        except (CompileError, LinkError):
            self._link(objects, folder, ["-s"])

    def _link(self, objects, folder, options):
        self.compiler.link_executable(objects, GUARD, output_dir=folder, extra_postargs=options)

    def build_extensions(self):
        # Where this Python keeps its own libraries means nothing where the module is loaded.
        self.compiler.linker_so = [word for word in self.compiler.linker_so if not word.startswith("-Wl,-rpath")]
        super().build_extensions()

    def get_outputs(self):
        return [*super().get_outputs(), os.path.join(self.build_lib, FOLDER, GUARD)]

    def get_output_mapping(self):
        built = os.path.join(self.build_lib, FOLDER, GUARD)
        return {**super().get_output_mapping(), built: os.path.join(FOLDER, GUARD)}


class InstallPrinted(install_data):
    """install_data, after what it installs was printed."""

    def run(self):
        for name, option in PRINTED.items():
            path = os.path.join("build", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                subprocess.run([sys.executable, "-m", "libnlplug", option], stdout=file, check=True)
        super().run()


setup(
    cffi_modules=["build_ffi.py:ffi"],
    cmdclass={"build_ext": BuildWithGuard, "install_data": InstallPrinted},
    data_files=[(os.path.dirname(name), [os.path.join("build", name)]) for name in PRINTED],
    long_description=DESCRIPTION,
    long_description_content_type="text/markdown",
    **LICENCE,
)
