# SPDX-License-Identifier: GPL-2.0-or-later
"""The version, stated here and nowhere else."""

__version__ = "1.0.0"
