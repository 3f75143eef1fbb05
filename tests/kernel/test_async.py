# SPDX-License-Identifier: GPL-2.0-or-later
"""async with: the loop runs on while a thread enters and leaves, and a cancelled task leaves nothing held."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from contextvars import ContextVar
from pathlib import Path

import pytest

from libnlplug import HoldExpired, Match, PlugBusy, PlugGroup, PlugLane, PlugQdisc, attach
from libnlplug.guard import client as guard
from libnlplug.guard.holders import Mark
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.hold import expect_flow, expect_held, mark_of, marks
from tests.support.netlab import PORT, Netns, Wire, eventually

SYN = Match(ip_proto="tcp", dst_port=PORT, tcp_syn=True)


@pytest.fixture
def taken(wire: Wire, plug: PlugQdisc):
    """The plug's mark, which this process has: a hold waits for it, and holds once it is closed."""
    sk, mark = RouteSocket(wire.near), Mark(mark_of(plug).lstrip("@"))
    assert mark.take(sk)
    yield mark
    mark.close()
    sk.close()


@pytest.fixture
def listener():
    """A listener on lo of a namespace of its own, with a connection that nobody accepts: a handover waits for that."""
    netns = Netns.take()
    netns.ip("link set lo up")
    listening, client = (netns.run(socket.socket) for _ in range(2))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", PORT))
    listening.listen()
    client.connect(("127.0.0.1", PORT))
    yield netns, listening
    listening.close()
    client.close()
    netns.give_back()


async def ticks(until) -> int:
    """How often the loop comes round until the condition is true."""
    count = 0
    while not until():
        await asyncio.sleep(0.01)
        count += 1
        assert count < 1000, "it never became true"
    return count


def test_a_hold_is_entered_and_left(wire: Wire, plug: PlugQdisc) -> None:
    """Packets wait during the block and arrive after it; the report is the same as with ``with``."""

    async def main() -> list[int]:
        async with plug.hold(timeout=10) as report:
            numbers = expect_held(wire, plug)
        assert (report.packets, report.dropped, report.expired) == (5, 0, False)
        return numbers

    expect_flow(wire, asyncio.run(main()))


def test_what_was_attached_is_removed(wire: Wire) -> None:
    """``async with attach()`` removes the plug; what it still held has left first."""

    async def main() -> list[int]:
        async with attach(wire.device, netns=wire.near) as plug:
            plug.buffer()
            return expect_held(wire, plug)

    wire.expect(asyncio.run(main()))
    assert "plug" not in wire.near.kinds(wire.device)


def test_a_group_is_held(wire: Wire, plug: PlugQdisc) -> None:
    """A group can be held by ``async with`` too."""

    async def main() -> list[int]:
        async with PlugGroup([plug]) as group, group.hold(timeout=10):
            return expect_held(wire, plug)

    expect_flow(wire, asyncio.run(main()))


def test_an_error_of_the_block_comes_out(wire: Wire, plug: PlugQdisc) -> None:
    """An exception in the block releases and goes on, as an exception when entering does."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with plug.hold(timeout=10):
                held.extend(expect_held(wire, plug))
                with pytest.raises(PlugBusy):
                    async with plug.hold(timeout=10):
                        pass
                raise ZeroDivisionError

    held: list[int] = []
    asyncio.run(main())
    expect_flow(wire, held)


def test_a_task_cancelled_in_the_block_releases(wire: Wire, plug: PlugQdisc) -> None:
    """What was held arrives, and CancelledError comes out."""

    async def hold() -> None:
        async with plug.hold(timeout=10):
            held.extend(expect_held(wire, plug))
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(hold())
        await ticks(lambda: held)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    held: list[int] = []
    asyncio.run(main())
    expect_flow(wire, held)


def test_a_task_cancelled_while_entering_releases(wire: Wire, plug: PlugQdisc, taken: Mark) -> None:
    """The loop runs on while the hold waits for the mark. The task is cancelled again and again; the hold that then
    begins in the thread is released, and the block does not run."""

    async def hold() -> None:
        async with plug.hold(timeout=10):
            pytest.fail("the block runs")

    async def main() -> None:
        task = asyncio.create_task(hold())
        begun = time.monotonic()
        assert await ticks(lambda: time.monotonic() - begun > 0.2) > 1  # a loop that is blocked comes round once
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        taken.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert plug.last_action == "release_indefinite"
    assert marks(wire.near) == []
    expect_flow(wire, [])


def test_a_task_cancelled_while_it_waits_for_a_handover(listener) -> None:
    """A connection in the accept queue keeps the block from beginning: the loop runs on, and cancelling ends the wait
    at once, and the hold."""
    netns, _ = listener

    async def hold(lane: PlugLane) -> None:
        async with lane.hold(timeout=60, handover=True):
            pytest.fail("the block runs")

    async def main() -> float:
        async with PlugLane("lo", SYN, netns=netns) as lane:
            task = asyncio.create_task(hold(lane))
            await ticks(lambda: marks(netns))
            begun = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert lane.plug.last_action == "release_indefinite"
            assert marks(netns) == []
            return time.monotonic() - begun

    assert asyncio.run(main()) < 10
    assert [link["ifname"] for link in netns.links()] == ["lo"]


def test_a_task_cancelled_while_it_leaves(listener) -> None:
    """No new listener comes: the loop runs on, and cancelling ends the wait for one, and the hold."""
    netns, listening = listener
    listening.accept()[0].close()

    async def hold(lane: PlugLane) -> None:
        async with lane.hold(timeout=60, handover=True):
            listening.close()

    async def main() -> None:
        async with PlugLane("lo", SYN, netns=netns) as lane:
            task = asyncio.create_task(hold(lane))
            await ticks(lambda: listening.fileno() < 0)
            begun = time.monotonic()
            assert await ticks(lambda: time.monotonic() > begun + 0.3) > 1  # a loop that is blocked comes round once
            assert marks(netns)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert marks(netns) == []

    asyncio.run(main())


async def long_hold(wire: Wire, plug: PlugQdisc, held: list[int]) -> None:
    """Hold, with packets whose numbers are added to ``held``, until the task is cancelled."""
    async with plug.hold():
        held.extend(expect_held(wire, plug))
        await asyncio.sleep(60)


def test_wait_for_ends_a_hold(wire: Wire, plug: PlugQdisc) -> None:
    """asyncio.wait_for() around a hold is a TimeoutError, and what was held arrives."""

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(long_hold(wire, plug, held), 1)

    held: list[int] = []
    asyncio.run(main())
    expect_flow(wire, held)


def test_an_expiry_is_one_record(wire: Wire, plug: PlugQdisc, caplog: pytest.LogCaptureFixture) -> None:
    """What the guard ended is one record of the logger ``libnlplug``, with the sentence of the error; a hold that ends
    in time is none."""

    async def main() -> str:
        async with plug.hold(timeout=60):
            pass
        with pytest.raises(HoldExpired) as raised:
            async with plug.hold(timeout=0.05):
                await asyncio.sleep(0.2)
        return str(raised.value)

    with caplog.at_level(logging.DEBUG):
        sentence = asyncio.run(main())
    shown = [(one.name, one.levelname, one.getMessage()) for one in caplog.records if one.name != "asyncio"]
    assert shown == [("libnlplug", "WARNING", sentence)]


def test_no_thread_can_be_started(wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, the block is left without one."""

    def refuse(*_words: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        async with plug.hold(timeout=10):
            held.extend(expect_held(wire, plug))
            monkeypatch.setattr("threading.Thread.start", refuse)
        monkeypatch.undo()

    held: list[int] = []
    asyncio.run(main())
    expect_flow(wire, held)


def slow_guard(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have guards start a second late."""
    path.write_text(f"#!/bin/sh\nsleep 1\nexec {guard.PATH}\n")
    path.chmod(0o755)
    monkeypatch.setattr(guard, "PATH", str(path))


def test_the_loop_runs_on_while_a_guard_starts(
    wire: Wire, plug: PlugQdisc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that takes a second to start, and the task is cancelled meanwhile: the loop comes round all the time, and
    nothing is held in the end."""
    slow_guard(tmp_path / "guard", monkeypatch)

    async def hold() -> None:
        async with plug.hold(timeout=10):
            pytest.fail("the block runs")

    async def main() -> None:
        task = asyncio.create_task(hold())
        begun = time.monotonic()
        assert await ticks(lambda: time.monotonic() - begun > 0.5) > 1  # a loop that is blocked comes round once
        task.cancel()
        assert await ticks(task.done) > 1
        assert task.cancelled()

    asyncio.run(main())
    assert marks(wire.near) == []
    expect_flow(wire, [])


def test_two_holds_of_one_plug(wire: Wire, plug: PlugQdisc) -> None:
    """gather() of two holds of one plug: one holds, the other one is refused."""

    async def hold() -> list[int]:
        async with plug.hold(timeout=10):
            numbers = expect_held(wire, plug)
            await asyncio.sleep(0.5)
            return numbers

    async def main() -> list[object]:
        return await asyncio.gather(hold(), hold(), return_exceptions=True)

    first, second = sorted(asyncio.run(main()), key=lambda one: isinstance(one, PlugBusy))
    assert isinstance(second, PlugBusy)
    expect_flow(wire, first)


def test_two_holds_at_once(wire: Wire, plug: PlugQdisc) -> None:
    """gather() of holds of two plugs: both hold at once. One fails, the other goes on until it is cancelled."""

    async def hold(one: PlugQdisc, entered: list[PlugQdisc], failing: bool) -> None:
        async with one.hold(timeout=10):
            entered.append(one)
            await ticks(lambda: len(entered) == 2)
            if failing:
                raise ZeroDivisionError
            await asyncio.sleep(60)

    async def main(other: PlugQdisc) -> None:
        entered: list[PlugQdisc] = []
        tasks = [asyncio.create_task(hold(plug, entered, False)), asyncio.create_task(hold(other, entered, True))]
        with pytest.raises(ZeroDivisionError):
            await asyncio.gather(*tasks)
        assert len(marks(wire.near)) == 1
        held.extend(expect_held(wire, plug))
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    held: list[int] = []
    wire.near.ip("link add second type dummy")
    with attach("second", netns=wire.near) as other:
        asyncio.run(main(other))
    assert marks(wire.near) == []
    expect_flow(wire, held)


if sys.version_info >= (3, 11):  # which has asyncio.timeout() and TaskGroup

    def test_a_timeout_and_a_group_of_tasks(wire: Wire, plug: PlugQdisc) -> None:
        """asyncio.timeout() around a hold in a TaskGroup is a TimeoutError; the group cancels another task's hold."""

        async def late() -> None:
            await ticks(lambda: held)
            async with asyncio.timeout(0.1):
                async with other.hold():
                    await asyncio.sleep(60)

        async def main() -> None:
            with pytest.raises(BaseException) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(long_hold(wire, plug, held))
                    group.create_task(late())
            assert [type(one) for one in caught.value.exceptions] == [TimeoutError]

        held: list[int] = []
        wire.near.ip("link add second type dummy")
        with attach("second", netns=wire.near) as other:
            asyncio.run(main())
        assert marks(wire.near) == []
        expect_flow(wire, held)


def test_a_loop_that_ends_in_the_block(wire: Wire, plug: PlugQdisc) -> None:
    """Whoever stops and closes the loop and throws the task away has released: nothing waits until the process ends."""

    async def hold() -> None:
        async with plug.hold():
            held.extend(expect_held(wire, plug))
            asyncio.get_running_loop().stop()
            await asyncio.sleep(60)

    held: list[int] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio tells of a task that is thrown away
    coroutine = hold()
    task = loop.create_task(coroutine)  # kept, or it would be closed here
    loop.run_forever()
    loop.close()
    assert marks(wire.near) != []
    coroutine.close()
    assert not task.done()
    assert marks(wire.near) == []
    expect_flow(wire, held)


def test_a_loop_that_ends_while_entering(wire: Wire, plug: PlugQdisc, taken: Mark, monkeypatch) -> None:
    """The task is thrown away while the hold waits for the mark: the hold that then begins is released."""

    async def hold() -> None:
        async with plug.hold():
            pytest.fail("the block runs")

    async def main() -> None:
        await asyncio.sleep(0.2)
        loop.stop()

    sent: list[str | None] = []
    monkeypatch.setattr(type(plug), "note", lambda _plug, action: sent.append(action))
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio tells of a task that is thrown away
    coroutine = hold()
    tasks = [loop.create_task(coroutine), loop.create_task(main())]  # kept, or they would be closed here
    loop.run_forever()
    loop.close()
    coroutine.close()
    taken.close()
    assert not tasks[0].done()
    eventually(lambda: sent == ["buffer", "release_indefinite"], "the hold that begins is released", 20)
    assert marks(wire.near) == []
    expect_flow(wire, [])


def test_a_record_has_the_task_s_context(wire: Wire, plug: PlugQdisc) -> None:
    """A filter of logging that reads a context variable, as the number of a request, finds it for this record, too."""
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []

    def note(_record: logging.LogRecord) -> bool:
        seen.append(request.get())
        return True

    async def main() -> None:
        request.set("4711")
        with pytest.raises(HoldExpired):
            async with plug.hold(timeout=0.05):
                await asyncio.sleep(0.2)

    logger = logging.getLogger("libnlplug")
    logger.addFilter(note)
    try:
        asyncio.run(main())
    finally:
        logger.removeFilter(note)
    assert seen == ["4711"]
