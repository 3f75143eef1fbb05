# SPDX-License-Identifier: GPL-2.0-or-later
"""buffer holds every packet, release_indefinite delivers every one: counted at the sink, in the plug, and by tc."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from libnlplug import PlugQdisc
from tests.support.netlab import FRAME, Wire, eventually


def test_a_new_plug_lets_packets_pass(wire: Wire, plug: PlugQdisc) -> None:
    """attach() releases the plug it makes: packets pass, in order, and are counted as gone."""
    wire.expect(wire.send(100))
    stats = plug.stats()
    assert (stats.qlen, stats.backlog, stats.drops, stats.packets, stats.bytes) == (0, 0, 0, 100, 100 * FRAME)


def test_100_packets_are_held_and_then_delivered(wire: Wire, plug: PlugQdisc) -> None:
    """100 packets wait in the plug and none arrives; after the release all 100 arrive, in order."""
    plug.buffer()
    numbers = wire.send(100)
    stats, shown = plug.stats(), wire.near.qdisc(wire.device)
    assert wire.arrived() == []
    assert (stats.qlen, stats.backlog, stats.drops, stats.packets) == (100, 100 * FRAME, 0, 0)
    assert (shown["kind"], shown["qlen"], shown["backlog"], shown["drops"]) == ("plug", 100, 100 * FRAME, 0)

    plug.release_indefinite()
    wire.expect(numbers)
    stats, shown = plug.stats(), wire.near.qdisc(wire.device)
    assert (stats.qlen, stats.backlog, stats.drops, stats.packets, stats.bytes) == (0, 0, 0, 100, 100 * FRAME)
    assert (shown["qlen"], shown["drops"], shown["packets"], shown["bytes"]) == (0, 0, 100, 100 * FRAME)


def test_many_rounds_lose_nothing(wire: Wire, plug: PlugQdisc) -> None:
    """Twenty rounds of buffer and release_indefinite, with packets before, during and after, lose and reorder none."""
    numbers = []
    for _ in range(20):
        numbers += wire.send(3)
        plug.buffer()
        numbers += wire.send(7)
        assert plug.stats().qlen == 7
        plug.release_indefinite()
        numbers += wire.send(2)
    wire.expect(numbers)
    assert plug.stats().packets == 20 * 12


def test_after_a_release_new_packets_pass_at_once(wire: Wire, plug: PlugQdisc) -> None:
    """release_indefinite is the state until the next buffer: packets sent later do not wait."""
    plug.buffer()
    plug.release_indefinite()
    wire.expect(wire.send(10))


def test_buffer_twice_is_still_one_hold(wire: Wire, plug: PlugQdisc) -> None:
    """A second buffer changes nothing for a release_indefinite: one release lets everything go."""
    plug.buffer()
    numbers = wire.send(5)
    plug.buffer()
    numbers += wire.send(5)
    assert wire.arrived() == []
    plug.release_indefinite()
    wire.expect(numbers)


@pytest.mark.parametrize("frame", [60, 61, 576, 1514])
def test_frames_of_every_size_are_held_whole(wire: Wire, plug: PlugQdisc, frame: int) -> None:
    """The backlog counts each packet with its link header, and bytes adds up to the same when they have left."""
    plug.buffer()
    numbers = wire.send(10, frame=frame)
    assert plug.stats().backlog == 10 * frame
    plug.release_indefinite()
    wire.expect(numbers)
    assert plug.stats().bytes == 10 * frame


def test_what_arrives_on_the_device_is_not_held(wire: Wire, plug: PlugQdisc) -> None:
    """A plug holds what leaves: a ping into the device is received and its answer is what waits."""
    plug.buffer()
    with pytest.raises(RuntimeError):
        wire.far.command("ping", "-c", "1", "-W", "0.2", Wire.NEAR)
    assert plug.stats().qlen == 1


def test_ping_replies_stop_and_come_back(wire: Wire, plug: PlugQdisc) -> None:
    """While held, a running ping gets no reply; after the release every request is answered, none is lost."""
    command = ["ping", "-n", "-c", "10", "-i", "0.05", "-W", "5", Wire.FAR]
    plug.buffer()
    ping = wire.near.run(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    eventually(lambda: plug.stats().qlen == 10, "ten requests wait")
    assert wire.near.qdisc(wire.device)["qlen"] == 10
    plug.release_indefinite()
    output = ping.communicate(timeout=20)[0]
    assert "10 packets transmitted, 10 received, 0% packet loss" in output
    assert ping.returncode == 0


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


def test_curl_waits_for_the_release(wire: Wire, plug: PlugQdisc) -> None:
    """A connection opened during a hold is neither refused nor lost: curl waits, and the release brings its page."""
    server = wire.far.run(HTTPServer, (Wire.FAR, 8080), _Hello)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        plug.buffer()
        command = ["curl", "-sS", "--max-time", "20", f"http://{Wire.FAR}:8080/"]
        curl = wire.near.run(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
        eventually(lambda: plug.stats().qlen >= 1, "the SYN waits")
        assert curl.poll() is None
        plug.release_indefinite()
        assert curl.communicate(timeout=20)[0] == "hello"
        assert curl.returncode == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
