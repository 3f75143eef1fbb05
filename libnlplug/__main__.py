# SPDX-License-Identifier: GPL-2.0-or-later
"""python -m libnlplug: the command."""

import sys

from .command import main

sys.exit(main())
