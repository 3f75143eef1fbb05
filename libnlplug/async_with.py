# SPDX-License-Identifier: GPL-2.0-or-later
"""async with: enter and leave a context manager in a thread, so that asyncio's loop goes on.

Each time, a new thread is used, because the loop's default executor may be busy and a release must not wait. The thread
always finishes. If the task is cancelled while it enters, the manager is left again before CancelledError is raised. If
it is cancelled while it leaves, CancelledError is raised afterwards, or the error of leaving if there is one. If the
loop has ended, the block is left without a thread when the coroutine is thrown away. If that happens while the thread
enters, the thread leaves the manager again.
"""

from __future__ import annotations

__all__ = ["AsyncWith"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Callable, TypeVar

    Entered = TypeVar("Entered")


class AsyncWith:
    """Adds ``async with`` to a class that has ``with``."""

    __slots__ = ()

    async def __aenter__(self: AbstractContextManager[Entered]) -> Entered:
        first: dict[str, str] = {}

        def enter() -> Entered:
            entered = self.__enter__()
            if first.setdefault("was", "entered") != "entered":
                self.__exit__(None, None, None)
            return entered

        entering = _in_thread(enter)
        try:
            cancelled = await _finished(entering, self)
        except GeneratorExit:  # perhaps in that very thread, where the garbage is collected: it cannot be waited for
            if first.setdefault("was", "thrown away") == "entered":
                self.__exit__(None, None, None)
            raise
        if cancelled is None:
            return entering.result()
        failure = entering.exception()
        if failure is None:
            leaving = _in_thread(lambda: self.__exit__(type(cancelled), cancelled, cancelled.__traceback__))
            await _finished(leaving, self)
            leaving.result()
        raise cancelled from failure

    async def __aexit__(
        self: AbstractContextManager[object],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if _loop_has_ended():
            self.__exit__(kind, error, traceback)
            return
        leaving = _in_thread(lambda: self.__exit__(kind, error, traceback))
        cancelled = await _finished(leaving, self)
        leaving.result()
        if cancelled is not None:
            raise cancelled

    def give_up_waiting(self) -> None:
        """Called if the task is cancelled: end a wait for others that the thread is in. There is none by default."""


def _loop_has_ended() -> bool:
    """Return whether nothing can be awaited any more."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _in_thread(work: Callable[[], Entered]) -> asyncio.Future[Entered]:
    """Start the work in a new thread and return its future. It sees the task's context variables, as in ``with``."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, "libnlplug")
    try:
        return loop.run_in_executor(executor, copy_context().run, work)
    except RuntimeError:  # no thread can be started: a release must happen all the same
        done: asyncio.Future[Entered] = loop.create_future()
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        return done
    finally:
        executor.shutdown(wait=False)


async def _finished(work: asyncio.Future[Entered], entered: object) -> asyncio.CancelledError | None:
    """Wait until the thread has finished, even if the task is cancelled. Return the first CancelledError, or None.
    Raise GeneratorExit at once if the coroutine is thrown away."""
    import asyncio

    first = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except (asyncio.CancelledError, GeneratorExit) as ended:
            if isinstance(entered, AsyncWith):
                entered.give_up_waiting()
            if isinstance(ended, GeneratorExit):
                raise
            first = first or ended
    return first
