# SPDX-License-Identifier: GPL-2.0-or-later
"""How the compiled part is built; everything that is not code stands in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["build_ffi.py:ffi"])
