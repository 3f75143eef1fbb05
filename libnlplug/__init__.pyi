# SPDX-License-Identifier: GPL-2.0-or-later
"""The public names, as type checkers see them."""

from ._version import __version__ as __version__
from .attaching import attach as attach
from .errors import ClassNotFound as ClassNotFound
from .errors import ClosedError as ClosedError
from .errors import DeviceNotFound as DeviceNotFound
from .errors import ForkedError as ForkedError
from .errors import GuardUnavailable as GuardUnavailable
from .errors import HandleInUse as HandleInUse
from .errors import HoldExpired as HoldExpired
from .errors import InvalidHandle as InvalidHandle
from .errors import NetlinkError as NetlinkError
from .errors import NetnsNotFound as NetnsNotFound
from .errors import NotDrained as NotDrained
from .errors import NotPermitted as NotPermitted
from .errors import ParentNotClassful as ParentNotClassful
from .errors import ParentNotFound as ParentNotFound
from .errors import PlugBusy as PlugBusy
from .errors import PlugUnavailable as PlugUnavailable
from .errors import QdiscExists as QdiscExists
from .errors import QdiscNotFound as QdiscNotFound
from .group import GroupError as GroupError
from .group import PlugGroup as PlugGroup
from .guard.holders import Holder as Holder
from .hold import HoldReport as HoldReport
from .hold import PacketsDropped as PacketsDropped
from .hold import PacketsUncounted as PacketsUncounted
from .lane.hold import BacklogTooSmall as BacklogTooSmall
from .lane.hold import LaneReport as LaneReport
from .lane.lane import LaneShadowed as LaneShadowed
from .lane.lane import PlugLane as PlugLane
from .lane.match import Match as Match
from .plug import PlugQdisc as PlugQdisc
from .plug import PlugStats as PlugStats

__all__: list[str]
