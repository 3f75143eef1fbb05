# SPDX-License-Identifier: GPL-2.0-or-later
"""How the compiled parts are built: the cffi module and the guard, a program of its own beside it."""

import os
from distutils.errors import CompileError, LinkError

from setuptools import setup
from setuptools.command.build_ext import build_ext

GUARD = "libnlplug-guard"
FOLDER = os.path.join("libnlplug", "guard")
SOURCES = [os.path.join(FOLDER, name) for name in ("guard.c", "namespace.c")]


class BuildWithGuard(build_ext):
    """build_ext, and libnlplug/guard/libnlplug-guard after it, linked statically where the C library allows it."""

    def run(self):
        super().run()
        folder = FOLDER if self.inplace else os.path.join(self.build_lib, FOLDER)
        objects = self.compiler.compile(SOURCES, output_dir=self.build_temp, extra_postargs=["-O2", "-Wall"])
        try:
            self.compiler.link_executable(objects, GUARD, output_dir=folder, extra_postargs=["-static", "-s"])
        except (CompileError, LinkError):
            self.compiler.link_executable(objects, GUARD, output_dir=folder, extra_postargs=["-s"])

    def build_extensions(self):
        # Where this Python keeps its own libraries means nothing where the module is loaded.
        self.compiler.linker_so = [word for word in self.compiler.linker_so if not word.startswith("-Wl,-rpath")]
        super().build_extensions()

    def get_outputs(self):
        return [*super().get_outputs(), os.path.join(self.build_lib, FOLDER, GUARD)]

    def get_output_mapping(self):
        built = os.path.join(self.build_lib, FOLDER, GUARD)
        return {**super().get_output_mapping(), built: os.path.join(FOLDER, GUARD)}


setup(cffi_modules=["build_ffi.py:ffi"], cmdclass={"build_ext": BuildWithGuard})
