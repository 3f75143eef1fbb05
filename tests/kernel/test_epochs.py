# SPDX-License-Identifier: GPL-2.0-or-later
"""buffer begins an epoch, release_one lets the epoch before it go: exactly its packets, round after round."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from libnlplug import PlugQdisc
from tests.support.netlab import FRAME, Wire, eventually


def test_release_one_lets_exactly_the_last_complete_epoch_go(wire: Wire, plug: PlugQdisc) -> None:
    """The packets between two buffers go with release_one; those after the second wait for the next round."""
    plug.buffer()
    first = wire.send(10)
    plug.buffer()
    second = wire.send(4)
    plug.release_one()
    wire.expect(first)
    assert plug.stats().qlen == 4
    plug.buffer()
    plug.release_one()
    wire.expect(second)
    assert plug.stats().qlen == 0


def test_epochs_over_many_rounds(wire: Wire, plug: PlugQdisc) -> None:
    """Twenty checkpoints of different size: each release_one delivers its own epoch and nothing of the next."""
    plug.buffer()
    epoch = wire.send(3)
    for size in range(20):
        plug.buffer()
        following = wire.send(size)
        assert wire.arrived() == []
        plug.release_one()
        wire.expect(epoch)
        assert plug.stats().qlen == size
        epoch = following
    assert wire.near.qdisc(wire.device)["qlen"] == size
    plug.release_indefinite()
    wire.expect(epoch)


def test_release_one_goes_on_holding(wire: Wire, plug: PlugQdisc) -> None:
    """Packets that come after release_one wait: unlike release_indefinite it opens nothing."""
    plug.buffer()
    plug.buffer()
    plug.release_one()
    later = wire.send(5)
    assert plug.stats().qlen == 5
    plug.release_one()  # the epoch is not complete: there is no count to let go
    assert (plug.stats().qlen, wire.arrived()) == (5, [])
    plug.release_indefinite()
    wire.expect(later)


def test_release_one_after_a_single_buffer_lets_nothing_go(wire: Wire, plug: PlugQdisc) -> None:
    """An epoch is complete only when the next buffer has come: until then release_one has nothing to release."""
    plug.buffer()
    numbers = wire.send(5)
    plug.release_one()
    assert (plug.stats().qlen, wire.arrived()) == (5, [])
    plug.release_indefinite()
    wire.expect(numbers)


def test_the_misuse_two_buffers_lose_the_count_of_an_epoch(wire: Wire, plug: PlugQdisc) -> None:
    """Without a release_one between them, the second of two buffers forgets how many packets the first epoch had.

    The kernel counts the latest complete epoch only, and lets that many go from the head of the queue: here 4, though
    7 came before the latest buffer. The rest lags behind for ever, until release_indefinite; no packet is lost.
    """
    plug.buffer()
    first = wire.send(3)
    plug.buffer()  # no release_one before this one's successor: the count 3 will be forgotten
    second = wire.send(4)
    plug.buffer()
    third = wire.send(5)
    waiting = first + second + third

    plug.release_one()
    wire.expect(waiting[:4])
    plug.buffer()
    plug.release_one()
    wire.expect(waiting[4:9])
    for _ in range(3):  # every count has been used: no further round reaches the three that lag
        plug.buffer()
        plug.release_one()
    assert (plug.stats().qlen, wire.arrived()) == (3, [])
    plug.release_indefinite()
    wire.expect(waiting[9:])
    assert plug.stats().drops == 0


class Model:
    """What net/sched/sch_plug.c does, in Python: the queue's head up to the count of the latest complete epoch."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.gone: list[int] = []
        self.current = self.last = self.due = 0
        self.holding = False

    def send(self, numbers: list[int]) -> None:
        self.queue += numbers
        self.current += len(numbers) if self.holding else 0
        self._dequeue()

    def buffer(self) -> None:
        self.last, self.current, self.holding = self.current, 0, True

    def release_one(self) -> None:
        self.due += self.last
        self.last = 0
        self._dequeue()

    def release_indefinite(self) -> None:
        self.current = self.last = self.due = 0
        self.holding = False
        self._dequeue()

    def _dequeue(self) -> None:
        count = len(self.queue)
        if self.holding:
            count = min(count, self.due)
            self.due -= count
        self.gone += self.queue[:count]
        del self.queue[:count]


STEPS = st.one_of(st.sampled_from(["buffer", "release_one", "release_indefinite"]), st.integers(1, 9))


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=25))
def test_any_sequence_does_what_the_model_says(wire: Wire, plug: PlugQdisc, steps: list[str | int]) -> None:
    """Whatever the order of buffer, release_one, release_indefinite and packets: the right ones go, none is lost."""
    model = Model()
    start = plug.stats().packets
    for step in steps:
        if isinstance(step, int):
            model.send(wire.send(step))
        else:
            getattr(plug, step)()
            getattr(model, step)()
            eventually(lambda: plug.stats().qlen == len(model.queue), "the kernel carries out the release")
    wire.expect(model.gone)
    stats = plug.stats()
    assert (stats.qlen, stats.backlog) == (len(model.queue), len(model.queue) * FRAME)
    assert stats.packets - start == len(model.gone)
    plug.release_indefinite()
    wire.expect(model.queue)
    assert plug.stats().drops == 0


def test_a_buffer_right_after_a_release_loses_nothing(wire: Wire, plug: PlugQdisc) -> None:
    """The kernel only starts a release: what a buffer overtakes is held again, in order, and never lost."""
    numbers = []
    for _ in range(5):
        plug.buffer()
        numbers += wire.send(200)
        plug.release_indefinite()
    plug.buffer()
    held = plug.stats().qlen  # often none: it depends on when the kernel gets to it
    wire.expect(numbers[: len(numbers) - held])
    plug.release_indefinite()
    wire.expect(numbers[len(numbers) - held :])
