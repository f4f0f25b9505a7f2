# SPDX-License-Identifier: Apache-2.0
"""The executable `ground_station` over plain HTTP and WebSocket: what it serves, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import cv2
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from station_support import CAMERA, SIZE, TRACKER, Observer, Wire, address_of, wait_for
from std_msgs.msg import Header
from yarl import URL

from mlkd_ros.imaging.encode import image_message
from mlkd_ros.station.access import Access
from mlkd_ros.station.clients import Client, Clients
from mlkd_ros.station.command import main
from mlkd_ros.station.link import Picture
from mlkd_ros.station.picture import H264Stream, Level
from mlkd_ros.station.protocol import Ack, Hello, Init, ProtocolError, parse

ANY_PORT = ("--port", "0")


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that keeps cookies of IP addresses, too."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield http


async def refused(http: aiohttp.ClientSession, address: str, **headers: str) -> int:
    """The status that a WebSocket is refused with."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await Wire.open(http, address, **headers)
    return error.value.status


def test_on_this_machine(start_node: Callable) -> None:
    """No token; but a page of another site, or under another name, gets nothing."""
    address = address_of(start_node("ground_station", *ANY_PORT, "--max-clients", "2"))
    assert urlsplit(address).hostname == "127.0.0.1"
    asyncio.run(_on_this_machine(address))


async def _on_this_machine(address: str) -> None:
    async with session() as http:
        for path, kind in (("", "text/html"), ("station.js", "text/javascript")):
            async with http.get(address + path) as response:
                assert response.status == 200
                assert response.content_type == kind
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert "aiohttp" not in response.headers["Server"]
        for path in ("server.py", "../server.py", "%2e%2e/server.py", "page/index.html", "icon"):
            async with http.get(URL(address + path, encoded=True)) as response:
                assert response.status == 404, path
        # DNS rebinding: our address under a name of somebody else's.
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.7", ""):
            async with http.get(address, headers={"Host": host}) as response:
                assert response.status == 403, host
        # Cross-origin requests.
        for origin in ("http://evil.example", "null", f"{address[:-1]}.evil.example", "file://"):
            assert await refused(http, address, Origin=origin) == 403, origin
            async with http.post(address + "token", headers={"Origin": origin}) as response:
                assert response.status == 403
        assert await refused(http, address, **{"Sec-Fetch-Site": "same-site"}) == 403
        async with http.get(address + "socket") as response:  # no Origin, no upgrade
            assert response.status == 403
        await _pages(http, address)


async def _pages(http: aiohttp.ClientSession, address: str) -> None:
    first, second = [await Wire.open(http, address) for _ in range(2)]
    assert await refused(http, address) == 503
    link = await first.receive("link")
    assert (link["tracker"], link["publishers"], link["silence"]) == ("missing", 0, None)
    assert link["topic"] == "/mlkd/image"
    await second.send(type="ping", t=12.5)
    assert (await second.receive("pong"))["t"] == 12.5
    # Requests that a page would not send are answered, and do no harm.
    for text in ("", "{", "[]", '{"type":"launch"}', '{"type":"stop","request":-1}', "[" * 2000):
        await second.socket.send_str(text)
        reply = await second.receive("reply")
        assert not reply["ok"] and reply["message"], text
    box = {"stamp": "1", "box": [1, 2, 3, 4], "image_size": [640, 360], "target_id": ""}
    await second.send(type="init", request=7, **box)
    reply = await second.receive("reply")
    assert (reply["request"], reply["ok"]) == (7, False)
    assert "no service /mlkd/init_target" in reply["message"]
    await second.send(type="stop", request=8, target_id="")
    assert "no service /mlkd/stop" in (await second.receive("reply"))["message"]
    # Too long a message ends the connection, and makes room for another.
    await second.socket.send_str("x" * 5000)
    while (await second.socket.receive(20)).type != aiohttp.WSMsgType.CLOSE:
        pass
    assert second.socket.close_code == 1009
    third = await Wire.open(http, address)
    await third.receive("link")
    await third.socket.send_bytes(b"picture")
    while (await third.socket.receive(20)).type != aiohttp.WSMsgType.CLOSE:
        pass
    assert third.socket.close_code == 1003


def own_address() -> str:
    """An address of this machine besides loopback; skips the test where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network address besides loopback")
        return str(probe.getsockname()[0])


def test_nobody_else_reaches_it_by_default(start_node: Callable) -> None:
    port = urlsplit(address_of(start_node("ground_station", *ANY_PORT))).port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own_address(), port), 5)


def test_bound_elsewhere_it_asks_for_its_token(start_node: Callable) -> None:
    station = start_node("ground_station", *ANY_PORT, "--bind", "0.0.0.0")
    url = urlsplit(address_of(station))
    (token,) = parse_qs(url.query)["token"]
    assert len(token) >= 32
    assert "without encryption" in station.output
    asyncio.run(_token(f"http://127.0.0.1:{url.port}/", token, station))


async def _token(address: str, token: str, station: object) -> None:
    async with session() as http:
        for given, status in (("", 401), ("?token=", 403), ("?token=" + "x" * 32, 403)):
            async with http.get(address + given) as response:
                assert response.status == status
                assert token not in await response.text()
                assert not response.cookies
        for path in ("station.js", "nothing"):
            async with http.get(address + path) as response:
                assert response.status == 401
        assert await refused(http, address) == 401
        assert await refused(http, address, Authorization="Bearer wrong") == 401
        bearer = {"Authorization": f"Bearer {token}"}
        async with http.get(address, headers=bearer) as response:
            assert response.status == 200
        async with http.get(address, headers={**bearer, "Host": "evil.example"}) as response:
            assert response.status == 403
        # The first visit leaves a cookie, which opens everything, for our own page only.
        async with http.get(f"{address}?token={token}") as response:
            assert response.status == 200
            (cookie,) = response.headers.getall("Set-Cookie")
            assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
            assert response.headers["Referrer-Policy"] == "same-origin"
        async with http.get(address) as response:
            assert response.status == 200
        assert await refused(http, address, Origin="http://evil.example") == 403
        await (await Wire.open(http, address)).receive("link")
    async with session() as http:  # typed in
        headers = {"Origin": address[:-1]}
        async with http.post(f"{address}token", data={"token": "no"}, headers=headers) as response:
            assert response.status == 403
        async with http.post(f"{address}token", data={"token": token}, headers=headers) as response:
            assert response.status == 200
        async with http.get(address) as response:
            assert response.status == 200
    assert station.output.count(token) == 1  # type: ignore[attr-defined]


def test_a_token_of_ones_own(start_node: Callable, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("correct-horse-battery\n")
    file.chmod(0o600)
    station = start_node("ground_station", *ANY_PORT, "--token-file", str(file))
    address = address_of(station)
    assert "correct-horse" not in station.output

    async def visit() -> None:
        async with session() as http:
            async with http.get(address) as response:
                assert response.status == 401  # asked for on this machine, too
            async with http.get(f"{address}?token=correct-horse-battery") as response:
                assert response.status == 200

    asyncio.run(visit())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "70000"), "0 to 65535"),
        (("--bind", "drone.local"), "not an IP address"),
        (("--rate", "0"), "0.5 to 60"),
        (("--rate", "nan"), "0.5 to 60"),
        (("--width", "12"), "160 to 3840"),
        (("--quality", "100"), "10 to 95"),
        (("--max-clients", "0"), "1 to 64"),
        (("--image-transport", "theora"), "invalid choice"),
        (("--allow-host", "http://x"), "not a host name"),
        (("--colour",), "unrecognized"),
    ],
)
def test_options_that_cannot_be_used(
    arguments: tuple, words: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("correct-horse-battery", 0o644, "chmod 600"),
        ("short", 0o600, "16 to 256 characters"),
        ("words with blanks in them", 0o600, "letters, digits"),
        (None, 0o600, "No such file"),
    ],
)
def test_token_files_that_cannot_be_used(
    tmp_path: Path, content: str | None, mode: int, words: str, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    assert main(["--token-file", str(file)]) == 2
    assert words in capsys.readouterr().err


def test_what_ros_cannot_do(capsys: pytest.CaptureFixture) -> None:
    assert main(["--image", "my topic"]) == 2
    assert "--image 'my topic' is not a topic" in capsys.readouterr().err
    assert main(["--namespace", "1st"]) == 2
    assert "'1st' is not a namespace" in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on 127.0.0.1, port" in capsys.readouterr().err


def test_pictures_go_with_their_statuses_and_wait_for_the_page(
    start_node: Callable, observer: Observer
) -> None:
    start_node("night_camera", "--ros-args", *CAMERA)
    start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("night_camera", "tracker")
    options = ("--width", "320", "--rate", "30")
    asyncio.run(_pictures(address_of(start_node("ground_station", *ANY_PORT, *options)), observer))


async def _pictures(address: str, observer: Observer) -> None:
    async with session() as http:
        wire = await Wire.open(http, address)
        while (await wire.receive("link"))["tracker"] != "live":
            pass  # until the station hears it, too
        stamps = set()
        for _ in range(5):
            header, jpeg = await wire.picture()
            (status,) = header["statuses"] or [await wire.receive("status")]
            assert status["state"] == "IDLE" and status["box"] is None
            assert header["size"] == [320, 180] and header["image_size"] == list(SIZE)
            pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert pixels.shape == (180, 320, 3) and pixels.std() > 5
            stamps.add(int(header["stamp"]))
            await wire.acknowledge(header)
        assert len(stamps) == 5
        spoken_of = {s.header.stamp.sec * 10**9 + s.header.stamp.nanosec for s in observer.statuses}
        assert len(stamps & spoken_of) >= 4  # the first may have come before the tracker's first
        # Unacknowledged pictures do not pile up: two are under way, then none.
        silent = await Wire.open(http, address)
        await silent.picture()
        second, _ = await silent.picture()
        shown = observer.newest()
        with pytest.raises(asyncio.TimeoutError):
            await silent.picture(1.5)
        await wait_for(lambda: observer.newest() > shown + 10**9, "images after those")
        await silent.acknowledge(second)
        header, _ = await silent.picture()
        # It is of late, not one that has waited since.
        assert int(header["stamp"]) > shown


def test_who_has_the_control_gives_the_orders(start_node: Callable) -> None:
    address = address_of(start_node("ground_station", *ANY_PORT))
    asyncio.run(_control(address))


async def _control(address: str) -> None:
    async with session() as http:
        anna, ben = [await Wire.open(http, address) for _ in range(2)]
        await anna.send(type="hello", name="Anna")
        await ben.send(type="hello", name="Anna")  # of the same name
        people = await ben.receive("people")
        while len(set(people["names"])) < 2 or people["you"] == "":
            people = await ben.receive("people")
        assert people["control"] == "" and not people["yours"]
        # Who acts first has the control.
        await anna.send(type="stop", request=1, target_id="")
        assert (await anna.receive("reply"))["code"] == "NO_ANSWER"  # there is no tracker
        await ben.send(type="stop", request=2, target_id="")
        reply = await ben.receive("reply")
        assert (reply["request"], reply["code"]) == (2, "NOT_IN_CONTROL")
        holder = reply["message"].split(" has ")[0]
        await ben.send(type="control", request=3, take=True)
        assert (await ben.receive("reply"))["ok"]
        told = await anna.receive("activity")
        assert told["what"] == f"took the control from {holder}" and not told["yours"]
        assert not (await anna.receive("people"))["yours"]
        await ben.socket.close()
        told = await anna.receive("activity")
        assert "control is free" in told["what"]
        assert (await anna.receive("people"))["control"] == ""


def test_a_tab_takes_the_place_of_its_dead_connection(start_node: Callable) -> None:
    """Its name and its control, at once, and also where there is no room for one more."""
    address = address_of(start_node("ground_station", *ANY_PORT, "--max-clients", "2"))
    asyncio.run(_same_tab(address))


async def _same_tab(address: str) -> None:
    async with session() as http:
        ben, dead = [await Wire.open(http, address, tab) for tab in ("", "7f3a")]
        await ben.send(type="hello", name="Ben")
        await dead.send(type="hello", name="Anna")
        await dead.send(type="control", request=1, take=True)
        assert (await dead.receive("reply"))["ok"]
        while (await ben.receive("people"))["control"] != "Anna":
            pass
        assert await refused(http, address, tab="another") == 503
        assert await refused(http, address, tab="x" * 65) == 400
        anna = await Wire.open(http, address, "7f3a")
        await anna.send(type="hello", name="Anna")
        people = await anna.receive("people")
        assert (people["you"], people["yours"]) == ("Anna", True), people
        assert sorted(people["names"]) == ["Anna", "Ben"]
        # Nothing has happened, to the others.
        people = await ben.receive("people")
        assert (people["control"], sorted(people["names"])) == ("Anna", ["Anna", "Ben"])
        while (last := await dead.socket.receive(20)).type != aiohttp.WSMsgType.CLOSE:
            pass
        assert last.data == 4001
        await anna.send(type="control", request=2, take=False)
        told = await ben.receive("activity")
        assert (told["who"], told["what"]) == ("Anna", "left the control to others")


def test_record_and_snapshot(start_node: Callable, tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    start_node("night_camera", "--ros-args", *CAMERA)
    folder = tmp_path / "kept"
    station = start_node("ground_station", *ANY_PORT, "--width", "320", "--recordings", str(folder))
    asyncio.run(_record(address_of(station), folder))


async def _record(address: str, folder: Path) -> None:
    async with session() as http:
        wire = await Wire.open(http, address)
        assert not (await wire.receive("recording"))["on"]
        header, _ = await wire.picture()
        await wire.acknowledge(header)
        await wire.send(type="snapshot", request=1, stamp=header["stamp"])
        reply = await wire.receive("reply")
        assert reply["ok"], reply
        kept = folder / reply["message"]
        picture = cv2.imread(str(kept))
        assert picture.shape == (SIZE[1], SIZE[0], 3)  # full resolution, whatever the page shows
        about = json.loads(kept.with_suffix(".json").read_text())
        assert (about["stamp"], about["image_size"]) == (header["stamp"], list(SIZE))
        async with http.get(address + reply["file"]) as response:
            assert response.status == 200 and await response.read() == kept.read_bytes()
        async with http.get(address + "snapshots/other.jpg") as response:
            assert response.status == 404
        await wire.send(type="snapshot", request=2, stamp="1")
        assert "no longer held" in (await wire.receive("reply"))["message"]

        await wire.send(type="record", request=3, on=True)
        told = await wire.receive("recording", 90)
        assert told["on"]
        bag = Path(told["path"])
        assert (await wire.receive("reply"))["ok"] and bag.parent == folder
        late = await Wire.open(http, address)  # somebody who comes later knows, too
        assert (await late.receive("recording"))["path"] == str(bag)
        await asyncio.sleep(1.0)
        await wire.send(type="record", request=4, on=False)
        reply = await wire.receive("reply", 60)
        assert reply["ok"] and " images" in reply["message"], reply
        assert (bag / "metadata.yaml").is_file()


def test_a_recording_that_cannot_be_made_says_why(start_node: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    station = start_node("ground_station", *ANY_PORT, "--recordings", str(tmp_path / "file"))

    async def ask(address: str) -> None:
        async with session() as http:
            wire = await Wire.open(http, address)
            await wire.send(type="record", request=1, on=True)
            reply = await wire.receive("reply", 90)
            assert reply["code"] == "FAILED" and "cannot be made" in reply["message"], reply

    asyncio.run(ask(address_of(station)))


def test_h264_pictures_decode_to_what_went_in() -> None:
    av = pytest.importorskip("av")
    stream, level = H264Stream(), Level(320, 10.0, 60, 23, 900)
    ramp = np.linspace(20, 120, 320, dtype=np.uint8)
    decoder = av.CodecContext.create("h264", "r")
    coded = []
    for step in range(6):
        pixels = np.dstack([np.tile(np.roll(ramp, 4 * step), (180, 1))] * 3)
        if step == 4:
            stream.restart()
        one = stream.encode(pixels, (640, 360), level)
        coded.append(one)
        # Each picture comes out at once.
        (frame,) = decoder.decode(av.Packet(one.data)) or decoder.decode(None)
        shown = frame.to_ndarray(format="bgr24")
        assert shown.shape == pixels.shape
        assert np.abs(shown.astype(int) - pixels).mean() < 8
        decoder = av.CodecContext.create("h264", "r") if step == 3 else decoder
    assert [one.key for one in coded] == [True, False, False, False, True, False]
    assert all(one.codec.startswith("avc1.") for one in coded)
    assert len(coded[1].data) < len(coded[0].data)


def test_a_page_that_says_what_it_can_decode_while_a_picture_is_coded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """400 pixels wide, a JPEG of it is 225 high; H.264 has even sides: the kinds must not mix."""
    pytest.importorskip("av")
    image = image_message(np.zeros((450, 800, 3), np.uint8), Header())
    pictures = [Picture(stamp, image, None, 0.0, {}) for stamp in range(3)]
    headers = asyncio.run(_hello_meanwhile(pictures))
    assert [header["codec"][:4] for header in headers] == ["jpeg", "avc1", "jpeg"]
    assert not caplog.records


async def _hello_meanwhile(pictures: list[Picture]) -> list[dict[str, Any]]:
    """Headers of three pictures; of what it can decode the page speaks while they are coded."""
    clients = Clients(1, (400, 1000.0, 80), lambda _: None, lambda *_: None, lambda _: None)
    says = (
        lambda client: client.hello(Hello("", True)),
        lambda client: client.hello(Hello("", False)),
        lambda client: None,
    )

    async def show(client: Client, socket: web.WebSocketResponse) -> None:
        for number, (picture, say) in enumerate(zip(pictures, says, strict=True), 1):
            coding = threading.Event()
            clients.coder.submit(coding.wait)
            client.picture(picture)
            await asyncio.sleep(0.1)  # longer than its turn takes to come
            say(client)
            coding.set()
            await asyncio.wait_for(socket.receive(), 60)
            client.acknowledged(Ack(number, 0))

    return await _shown_by(clients, show, len(pictures))


def test_until_a_page_has_drawn_its_first_picture_any_may_be_on_its_screen() -> None:
    """The tracker is to keep the first that was sent, for a mark on it."""
    image = image_message(np.zeros((90, 160, 3), np.uint8), Header())
    told: list[int | None] = []
    clients = Clients(
        1,
        (160, 1000.0, 80),
        lambda _: None,
        lambda sent, oldest: told.append(oldest),
        lambda _: None,
    )

    async def show(client: Client, socket: web.WebSocketResponse) -> None:
        reports = asyncio.create_task(clients.report())
        for number, on_screen in enumerate((0, 0, 11, 12), 1):
            client.picture(Picture(10 + number, image, None, 0.0, {}))
            await asyncio.wait_for(socket.receive(), 60)
            client.acknowledged(Ack(number, on_screen))
            told.clear()
            await wait_for(lambda: told, "a report")
            assert told[-1] == max(on_screen, 11)
        reports.cancel()

    asyncio.run(_shown_by(clients, show, 4))


async def _shown_by(
    clients: Clients,
    show: Callable[[Client, web.WebSocketResponse], Awaitable[None]],
    count: int,
) -> list[dict[str, Any]]:
    """Headers of the pictures that `show` has a page sent."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = clients.add(socket)
        sender = asyncio.create_task(client.run())
        try:
            await show(client, socket)
        finally:
            sender.cancel()
            clients.coder.shutdown()
        return socket

    application = web.Application()
    application.router.add_get("/", serve)
    async with TestServer(application) as server, session() as http:
        wire = Wire(await http.ws_connect(server.make_url("/"), max_msg_size=0))
        headers = []
        for _ in range(count):
            headers.append((await wire.picture())[0])
            await wire.acknowledge(headers[-1])
        # A failure of `show` ends the connection in another way.
        assert (await wire.socket.receive()).data == aiohttp.WSCloseCode.OK
    return headers


def test_hosts_and_origins() -> None:
    own = Access.rules("127.0.0.1", "")
    assert all(map(own.known_host, ("localhost:8080", "127.0.0.1:1", "[::1]:80", "LOCALHOST")))
    assert not any(
        map(own.known_host, ("", "192.168.1.5:80", "localhost.evil.example", "[::1", "@"))
    )
    wide = Access.rules("0.0.0.0", "t" * 20, ("station.example",))
    assert all(map(wide.known_host, ("192.168.1.5:80", "station.example", socket.gethostname())))
    assert not wide.known_host("evil.example")
    page = {"Host": "10.0.0.2:8080", "Origin": "http://10.0.0.2:8080"}
    assert wide.own_page(page)
    for change in (
        {"Origin": "http://10.0.0.2:8081"},
        {"Origin": "http://10.0.0.2"},
        {"Origin": ""},
        {"Origin": "ftp://10.0.0.2:8080"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert not wide.own_page({**page, **change}), change


def test_ten_thousand_random_messages_are_read_or_refused() -> None:
    rng = random.Random(5)
    good = {
        "type": "init",
        "request": 1,
        "stamp": "1764000000123456789",
        "box": [1.0, 2.0, 3.0, 4.0],
        "image_size": [640, 360],
        "target_id": "car",
        "fit": False,
    }
    message = parse(json.dumps(good))
    assert isinstance(message, Init)
    assert message.stamp == 1764000000123456789
    odd = [None, True, -1, 10**400, 1e308, [], {}, "", "9" * 30, "\u0000", [1] * 4, "\u0664" * 3]
    read = 0
    for _ in range(10_000):
        fields = {key: rng.choice([value, value, rng.choice(odd)]) for key, value in good.items()}
        if rng.random() < 0.2:
            fields.pop(rng.choice(list(fields)))
        try:
            message = parse(json.dumps(fields))
        except ProtocolError as error:
            assert str(error)
        else:
            read += 1
            assert isinstance(message, Init)
            assert 0 <= message.stamp < 2**31 * 10**9 and message.image_size[0] < 2**32
    assert 0 < read < 5000


def test_pages_behind_a_proxy_and_programs_with_the_token() -> None:
    """What proxies make of Host, and what browsers say of themselves."""
    access = Access.rules("0.0.0.0", "t" * 32, ("gs.example",))

    def own(origin: str, host: str, **more: str) -> bool:
        return access.own_page({"Origin": origin, "Host": host, **more})

    assert own("https://gs.example", "gs.example")
    assert own("https://gs.example", "gs.example:443")
    assert own("https://gs.example:8443", "gs.example")
    assert own("https://gs.example:8443", "gs.example:8443")
    assert own("https://gs.example", "127.0.0.1:8080"), "the proxy writes our own address there"
    assert own("http://192.0.2.7:8080", "192.0.2.7:8080")
    assert not own("http://192.0.2.7:8081", "192.0.2.7:8080"), "another service of this machine"
    assert not own("http://192.0.2.7", "192.0.2.7:8080")
    assert not own("https://evil.example", "127.0.0.1:8080")
    assert not own("https://evil.example", "gs.example")
    assert not own("null", "gs.example")
    assert not own("https://gs.example:x", "gs.example")
    assert not own("https://gs.example", "gs.example", **{"Sec-Fetch-Site": "same-site"})
    assert not access.own_page({"Host": "gs.example"})


def test_a_program_needs_no_origin_but_the_token(start_node: Callable, tmp_path: Path) -> None:
    token = "0123456789abcdefghij"
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    station = start_node(
        "ground_station", *ANY_PORT, "--bind", "0.0.0.0", "--token-file", str(file)
    )
    port = urlsplit(address_of(station)).port

    async def act() -> None:
        address = f"http://127.0.0.1:{port}/"
        async with session() as http:
            bearer = {"Authorization": f"Bearer {token}"}
            async with http.ws_connect(address + "socket", headers=bearer) as wire:
                assert (await wire.receive_json(timeout=60))["type"]
            for wrong in ({}, {"Authorization": "Bearer " + "x" * 20}):
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await http.ws_connect(address + "socket", headers=wrong)

    asyncio.run(act())
