# SPDX-License-Identifier: GPL-2.0-or-later
"""One plug used by several threads, by signal handlers, after a fork, and many plugs in one process."""

from __future__ import annotations

import random
import signal
import threading
from contextlib import contextmanager

import pytest

import libnlplug
from libnlplug import ForkedError, PlugQdisc, QdiscNotFound
from tests.support.netlab import Netns, Wire, descriptors, in_child, in_thread, random_name


def test_eight_threads_share_one_plug(wire: Wire, plug: PlugQdisc) -> None:
    """8 threads with 5000 mixed calls each on one object: every answer is right, and the socket works afterwards."""
    errors: list[BaseException] = []
    gone = PlugQdisc(plug._sk, wire.device, plug._ifindex, 0x7_0001, plug._handle)  # its calls are all refused

    def work(seed: int) -> None:
        choose = random.Random(seed)
        try:
            for _ in range(5000):
                verb = choose.choice(["buffer", "release_one", "release_indefinite", "stats", "set_limit", "refused"])
                if verb == "stats":
                    assert plug.stats().qlen == 0
                elif verb == "set_limit":
                    plug.set_limit(choose.randrange(1, 1 << 30))
                elif verb == "refused":
                    with pytest.raises(libnlplug.ParentNotFound):
                        gone.buffer()
                else:
                    getattr(plug, verb)()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    plug.set_limit(1 << 20)
    plug.buffer()
    numbers = wire.send(5)
    assert plug.stats().qlen == 5
    plug.release_indefinite()
    wire.expect(numbers)


def test_a_thread_in_another_namespace_may_use_the_plug(wire: Wire, plug: PlugQdisc, netns: Netns) -> None:
    """An object speaks to the namespace it was made in, whatever namespace the calling thread is in."""
    numbers = []

    def use() -> None:
        plug.buffer()
        numbers.extend(wire.send(3))
        assert plug.stats().qlen == 3
        plug.detach()

    netns.run(use)
    wire.expect(numbers)


def test_a_forked_child_is_refused_and_the_parent_goes_on(wire: Wire, plug: PlugQdisc) -> None:
    """In a child every use of the parent's object raises ForkedError and sends nothing; the parent's hold stands."""
    plug.buffer()
    numbers = wire.send(3)

    def use() -> None:
        for verb in ("buffer", "release_one", "release_indefinite", "stats", "detach"):
            with pytest.raises(ForkedError, match="make a new one in the forked child"):
                getattr(plug, verb)()
        with pytest.raises(ForkedError):
            plug.set_limit(1000)
        with pytest.raises(ForkedError):
            plug.__enter__()
        plug.close()

    for _ in range(5):
        in_child(use)
        assert plug.stats().qlen == 3
    plug.release_indefinite()
    wire.expect(numbers)


def test_a_child_forked_in_the_middle_of_calls_may_close(wire: Wire, plug: PlugQdisc) -> None:
    """A child that was forked while other threads were calling closes the object without waiting for any of them."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            plug.stats()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            in_child(plug.close)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert plug.stats().qlen == 0


def test_a_forked_child_that_leaves_the_block_touches_nothing(wire: Wire) -> None:
    """A child that runs out of the parent's `with` block neither releases nor removes the parent's plug."""
    with libnlplug.attach(wire.device, netns=wire.near) as plug:
        plug.buffer()
        numbers = wire.send(3)
        in_child(lambda: plug.__exit__(None, None, None))
        assert (plug.stats().qlen, wire.near.kinds(wire.device)) == (3, ["plug"])
    wire.expect(numbers)


def test_a_forked_child_makes_its_own(wire: Wire, plug: PlugQdisc) -> None:
    """A new object in the child works, and so does the parent's meanwhile."""

    def use() -> None:
        with PlugQdisc.open(wire.device, netns=wire.near) as own:
            own.buffer()
            own.release_indefinite()
            own.buffer()

    in_child(use)
    numbers = wire.send(3)  # leaving the child's block has released
    wire.expect(numbers)
    plug.buffer()
    assert plug.stats().packets == 3


@contextmanager
def handling(handler, after: float, every: float = 0.0):
    """Call the handler from a timer's signal: once, or again and again."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        signal.setitimer(signal.ITIMER_REAL, after, every)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_release(wire: Wire, plug: PlugQdisc) -> None:
    """release_indefinite() from a signal handler in the midst of buffer() calls works every time."""
    called = []

    def release() -> None:
        plug.release_indefinite()
        called.append(plug.last_action)

    with handling(release, 0.002, 0.002):
        while len(called) < 100:
            plug.buffer()
    assert set(called) == {"release_indefinite"}
    plug.release_indefinite()
    wire.expect(wire.send(3))


class Interrupt(Exception):
    """What a handler raises, as Ctrl-C does."""


@pytest.mark.parametrize("call", ["buffer", "stats", "refused"])
def test_an_interrupt_in_a_call_leaves_the_socket_in_step(wire: Wire, plug: PlugQdisc, call: str) -> None:
    """An exception from a signal handler comes out, and the next calls get their own answers, no late ones."""
    gone = PlugQdisc(plug._sk, wire.device, plug._ifindex, 0x7_0001, plug._handle)  # its calls are all refused

    def interrupt() -> None:
        raise Interrupt

    def refused() -> None:
        with pytest.raises(libnlplug.ParentNotFound):
            gone.buffer()

    def until_interrupted() -> None:
        with handling(interrupt, 0.003):
            while True:
                {"buffer": plug.buffer, "stats": plug.stats, "refused": refused}[call]()

    for _ in range(100):
        with pytest.raises(Interrupt):
            until_interrupted()
        refused()
        assert plug.stats().qlen == 0
        plug.buffer()
        refused()
        plug.release_indefinite()


def test_many_plugs_cost_a_descriptor_each(netns: Netns) -> None:
    """300 plugs in one process: 300 descriptors and no thread; closed, none is left."""
    devices = [random_name() for _ in range(300)]
    netns.ip(*(f"link add {device} type dummy" for device in devices))
    libnlplug.attach("lo", netns=netns).detach()

    before = descriptors(), threading.active_count()
    plugs = [libnlplug.attach(device, netns=netns) for device in devices]
    assert (descriptors(), threading.active_count()) == (before[0] + 300, before[1])
    for plug in plugs:
        plug.buffer()
        plug.release_indefinite()
    assert all(plug.stats().qlen == 0 for plug in plugs)
    for plug in plugs:
        plug.close()
        plug.close()
    assert descriptors() == before[0]


def test_objects_die_in_any_thread(wire: Wire, plug: PlugQdisc) -> None:
    """An object made in one thread and forgotten in another frees its socket."""
    before = descriptors()
    made = [in_thread(PlugQdisc.open, wire.device, netns=wire.near) for _ in range(10)]
    assert descriptors() == before + 10
    in_thread(made.clear)
    assert descriptors() == before


def test_two_objects_for_one_plug(wire: Wire, plug: PlugQdisc) -> None:
    """Two objects of one plug do not disturb each other; what one deletes is gone for the other."""
    other = PlugQdisc.open(wire.device, netns=wire.near)
    plug.buffer()
    numbers = wire.send(2)
    assert other.stats().qlen == 2
    other.detach()
    wire.expect(numbers)
    with pytest.raises(QdiscNotFound):
        plug.buffer()
    other.close()
