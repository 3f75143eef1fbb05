# SPDX-License-Identifier: GPL-2.0-or-later
"""Lanes: hold chosen packets of a device. PlugLane is in lane.py.

This module imports nothing: libnlplug loads each public name when it is first used, and Match works without libnl.
Other rooms use PlugLane (lane.py), shown_lanes() (inventory.py), delete_lanes() (remove.py) and Match (match.py).
"""
