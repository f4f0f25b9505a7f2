# SPDX-License-Identifier: Apache-2.0
"""Ten thousand random images and ten thousand random requests, over DDS, against real processes.

Not one may end the node, hold it up or make it grow, and each refusal is counted with its reason.
"""

from __future__ import annotations

import math
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from input_support import InputGround, compressed_of, overlap, running, values
from node_support import PATIENCE, Scene, TrackerProcess, destroy, image_of, wait_until
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.imaging.encode import image_message
from mlkd_ros.imaging.encodings import ENCODINGS, UnusableImageError
from mlkd_ros.imaging.messages import Decoder
from mlkd_ros.node.messages import time_message
from mlkd_ros.session.targets import Code
from mlkd_ros.srv import InitTarget

IMAGES, COMPRESSED, GARBAGE, REQUESTS = 10_000, 2_000, 500, 10_000
#: Sent at once: the queues on both sides are longer than that, so that nothing is lost on the way.
BATCH, QUEUE = 250, 500
#: Requests on their way at once: a service of ROS queues ten.
IN_FLIGHT = 8
#: MiB that a node may grow by after its first quarter of the input.
GROWTH = 8.0

Message = Image | CompressedImage


@pytest.fixture(scope="module")
def raw() -> Iterator[tuple[TrackerProcess, InputGround]]:
    override = {"qos_overrides./wild/image.subscription.depth": QUEUE}
    with running("wild", max_targets=4, **override) as (process, ground):
        deepen(ground, Image, "image", image_of)
        yield process, ground


@pytest.fixture(scope="module")
def compressed() -> Iterator[tuple[TrackerProcess, InputGround]]:
    override = {"qos_overrides./squeezed/image/compressed.subscription.depth": QUEUE}
    with running("squeezed", image_transport="compressed", **override) as (process, ground):
        deepen(ground, CompressedImage, "image/compressed", compressed_of)
        yield process, ground


def deepen(
    ground: InputGround, kind: type, topic: str, message: Callable[[np.ndarray, int], Message]
) -> None:
    """A publisher that loses nothing of a batch.

    Heard for certain: Fast DDS 3 looks up the types of endpoints before it takes them in, and may
    take in a later one first. What is published until then is lost, and that is no fault of the
    node.
    """
    destroy(ground.node, ground.images)
    qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
    ground.images = ground.node.create_publisher(kind, topic, qos)
    ground.connect()

    def heard() -> bool:
        ground.images.publish(message(np.zeros((24, 32, 3), np.uint8), ground.now()))
        time.sleep(0.1)
        return bool(ground.detections)

    wait_until(heard, PATIENCE, f"detections of any image on {topic}")
    # The last of them, so that none comes later than what the tests count.
    wait_until(lambda: ground.last_stamp in ground.detections, PATIENCE, "those of the last one")


def memory(process: TrackerProcess, name: str = "VmRSS") -> float:
    """MiB of a node: what it has now, or VmHWM, the most it ever had."""
    with open(f"/proc/{process.process.pid}/status", encoding="ascii") as file:
        table = dict(line.split(":", 1) for line in file)
    return int(table[name].split()[0]) / 1024


# --- images -------------------------------------------------------------------------------------

HUGE = (2**31 - 1, 2**31, 2**32 - 1)
NAMES = ("", "camera", "\n[FATAL] no", "\u202eecila", "🛩" * 20, "x" * 5000, "../../etc", "%s%n")
OTHER_ENCODINGS = ("", "BGR8", " bgr8", "32FC1", "8UC2", "h264", "bayer_rggb16", "🛩", "x" * 5000)


def random_stamp(rng: random.Random, now: int) -> object:
    stamp = time_message(now)
    stamp.sec = rng.choice(
        (stamp.sec, 0, -1, -(2**31), 2**31 - 1, rng.randint(-(2**31), 2**31 - 1))
    )
    stamp.nanosec = rng.choice((stamp.nanosec, 0, 999_999_999, 2**32 - 1))
    return stamp


def random_image(rng: random.Random, picture: np.ndarray, now: int) -> Image:
    """A small image with one to four of its fields wrong, or at least odd."""
    message: Image = image_of(picture, now, rng.choice(ENCODINGS))
    size = len(message.data)
    damages: list[Callable[[], tuple[str, object]]] = [
        lambda: ("encoding", rng.choice((*ENCODINGS, *OTHER_ENCODINGS))),
        lambda: ("width", rng.choice((0, 1, 2, 7, rng.randint(0, 99), *HUGE))),
        lambda: ("height", rng.choice((0, 1, 2, 7, rng.randint(0, 99), *HUGE))),
        lambda: ("step", rng.choice((0, 1, message.step - 1, message.step + 1, *HUGE))),
        lambda: ("data", rng.randbytes(rng.choice((0, 1, size - 1, size, rng.randint(0, 9000))))),
        lambda: ("is_bigendian", rng.choice((1, 2, 255))),
        lambda: ("stamp", random_stamp(rng, now)),
        lambda: ("frame_id", rng.choice(NAMES)),
    ]
    for damage in rng.sample(damages, rng.randint(1, 4)):
        name, value = damage()
        setattr(message.header if name in ("stamp", "frame_id") else message, name, value)
    return message


def random_file(rng: random.Random, files: list[CompressedImage], now: int) -> CompressedImage:
    """A JPEG or PNG with wrong bytes, cut short, called by another name, or no picture at all."""
    message = rng.choice(files)
    data = bytearray(message.data)
    kind = rng.randrange(5)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        data = bytearray(rng.randbytes(rng.randint(0, 2000)))
    elif kind == 3:  # a head of one and a tail of another
        data = data[: rng.randrange(len(data))] + bytes(rng.choice(files).data)[rng.randrange(99) :]
    name = rng.choice((message.format, "png", "jpeg", "rgb8; jpeg compressed bgr8", *NAMES))
    header = image_message(np.zeros((2, 2, 3), np.uint8), message.header).header
    header.stamp = random_stamp(rng, now) if kind == 4 else time_message(now)
    return CompressedImage(header=header, format=name, data=bytes(data))


def refusal(decoder: Decoder, message: Message) -> str | None:
    """Why a message is refused on arrival, None if it is not."""
    try:
        decoder.decode(message)  # type: ignore[arg-type]
    except UnusableImageError as error:
        return error.reason
    return None


def bombard(
    process: TrackerProcess,
    ground: InputGround,
    count: int,
    bad: Callable[[int], Message],
    good: Callable[[], Message],
    decoder: Decoder,
) -> Counter[str]:
    """Publish `count` bad messages, a good one that has to be answered after each batch; memory
    stays and each refusal is counted. What was refused, by reason.
    """
    fill(ground, bad, good)
    before = counted(ground)
    refused: Counter[str] = Counter()
    early = 0.0
    for sent in range(0, count, BATCH):
        for _ in range(BATCH):
            message = bad(ground.now())
            reason = refusal(decoder, message)
            refused.update([reason] if reason else [])
            ground.images.publish(message)
        ground.show(good(), timeout=60)
        if sent <= count // 4:
            early = memory(process)
    assert memory(process) - early < GROWTH
    total = before["received"] + count + count // BATCH
    ground.judged(": images", lambda status: values(status)["received"] == str(total))
    assert counted(ground) - before == refused + Counter(received=count + count // BATCH)
    return refused


def fill(ground: InputGround, bad: Callable[[int], Message], good: Callable[[], Message]) -> None:
    """Once through the middleware's queue with messages as large as there will be: each of its
    places keeps the room of the largest one that it ever held, and that is no growth of the node.
    """
    some = [bad(ground.now()) for _ in range(4 * BATCH)]
    largest = max(some, key=lambda message: len(serialize_message(message)))
    for _ in range(0, QUEUE, BATCH):
        for _ in range(BATCH):
            ground.images.publish(largest)
        ground.show(good(), timeout=60)


def counted(ground: InputGround) -> Counter[str]:
    """Images received, and those refused by reason, out of the diagnostics."""
    table = values(ground.judged(": images", lambda status: True))
    reasons = {k.removeprefix("unusable: "): v for k, v in table.items() if k.startswith("unus")}
    del reasons["unusable"]  # their sum
    return Counter({key: int(n) for key, n in {**reasons, "received": table["received"]}.items()})


def assert_works(ground: InputGround, scene: Scene, message: Callable[..., Message]) -> None:
    """A good image and a good request are answered as ever."""
    ground.stop()
    ground.show(message(scene.image(0), ground.now()))
    response = ground.designate(scene.box(0))
    assert response.code == Code.SUCCESS, response.message
    for index in (1, 2, 3):
        assert (
            overlap(ground.show(message(scene.image(index), ground.now())), scene.box(index)) > 0.6
        )


@pytest.mark.timeout(600)
def test_random_images(raw: tuple[TrackerProcess, InputGround], scene: Scene) -> None:
    process, ground = raw
    rng = random.Random(1)
    picture = np.ascontiguousarray(scene.image(0)[60:84, 60:92])
    assert_works(ground, scene, image_of)
    refused = bombard(
        process,
        ground,
        IMAGES,
        lambda now: random_image(rng, picture, now),
        lambda: image_of(scene.image(0), ground.now()),
        Decoder(),
    )
    assert set(refused) == {"empty", "encoding", "step", "truncated", "pixels"}
    assert IMAGES / 2 < refused.total() < IMAGES * 0.9  # the rest is odd, but an image
    assert_works(ground, scene, image_of)
    assert "Traceback" not in process.log


@pytest.mark.timeout(600)
def test_random_files(compressed: tuple[TrackerProcess, InputGround], scene: Scene) -> None:
    process, ground = compressed
    rng = random.Random(2)
    small = np.ascontiguousarray(scene.image(0)[60:108, 60:124])
    files = [compressed_of(small, 1, kind) for kind in ("jpeg", "png")]
    files.append(compressed_of(small[..., 0], 1, "png"))
    assert_works(ground, scene, compressed_of)
    refused = bombard(
        process,
        ground,
        COMPRESSED,
        lambda now: random_file(rng, files, now),
        lambda: compressed_of(scene.image(0), ground.now()),
        Decoder(),
    )
    assert set(refused) >= {"empty", "encoding", "truncated"}
    assert COMPRESSED / 4 < refused.total() < COMPRESSED * 0.9
    assert_works(ground, scene, compressed_of)
    assert "Traceback" not in process.log


def png_bomb(side: int) -> bytes:
    """A PNG of a few bytes, sound by all its checksums, that says it has side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_a_few_bytes_that_claim_to_be_a_huge_picture(
    compressed: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    process, ground = compressed
    assert_works(ground, scene, compressed_of)
    jpeg = bytearray(compressed_of(scene.image(0), 1).data)
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    most = memory(process, "VmHWM")
    for data, name, side in ((png_bomb(30_000), "png", 30_000), (bytes(jpeg), "jpeg", 65_500)):
        message = compressed_of(scene.image(0), ground.now())
        message.data, message.format = data, name
        ground.images.publish(message)
        words = f"the {name} says it has {side}x{side} pixels"
        ground.judged(": images", lambda status, words=words: words in status.message)
        ground.show(compressed_of(scene.image(0), ground.now()))
    assert memory(process, "VmHWM") - most < 16.0
    assert_works(ground, scene, compressed_of)


def test_garbage_instead_of_messages(raw: tuple[TrackerProcess, InputGround], scene: Scene) -> None:
    """Bytes that are no serialized Image, or one that lies about the lengths in it."""
    process, ground = raw
    rng = random.Random(3)
    small = np.ascontiguousarray(scene.image(0)[60:84, 60:92])
    whole = serialize_message(image_of(small, ground.now()))
    assert_works(ground, scene, image_of)
    before = counted(ground)["received"]
    for index in range(GARBAGE):
        data = bytearray(whole)
        if index % 2:
            del data[rng.randrange(4, len(data)) :]
        else:
            # Lengths are in the first bytes: frame_id, encoding, data.
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(4, 72)] = rng.randrange(256)
        ground.images.publish(bytes(data))
        if index % 50 == 49:
            ground.show(image_of(scene.image(0), ground.now()), timeout=60)
    # What can be read as a message is one; the middleware throws the rest away.
    arrived = counted(ground)["received"] - before
    assert GARBAGE // 10 < arrived < GARBAGE
    assert_works(ground, scene, image_of)
    assert "Traceback" not in process.log


# --- requests -----------------------------------------------------------------------------------

NUMBERS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e-9, 0.4, -7.0, 1e9, -1e9, 1.8e308)
SIDES = (0, 0, 0, 1, 320, 640, *HUGE)
IDS = ("", "", "1", "2", "🎯", "\u202eecila", "a\nb", "\x1b[31m", "../../etc/passwd", "x" * 20_000)


def random_request(
    rng: random.Random, box: tuple[float, float, float, float], now: int
) -> InitTarget.Request:
    """A box drawn by nobody, on an image of an impossible size or time; a few are sound."""
    sound = rng.random() < 1 / 20
    left, top, width, height = box
    if rng.random() < 0.2:
        left, top = left + rng.uniform(-600, 600), top + rng.uniform(-600, 600)
    x, y, w, h = (
        value if sound or rng.random() < 0.7 else rng.choice((*NUMBERS, rng.uniform(-500, 900)))
        for value in (left, top, width, height)
    )
    # Mostly a target that is there already: more than there is room for is soon said.
    name = rng.choice(IDS) if rng.random() < 0.3 else "1"
    request = InitTarget.Request(x=x, y=y, width=w, height=h, target_id=name)
    if not sound:
        request.image_width, request.image_height = rng.choice(SIDES), rng.choice(SIDES)
        if rng.random() < 0.3:
            request.stamp = random_stamp(rng, now)
    return request


@pytest.mark.timeout(900)
def test_random_requests(raw: tuple[TrackerProcess, InputGround], scene: Scene) -> None:
    process, ground = raw
    rng = random.Random(4)
    assert_works(ground, scene, image_of)
    codes: Counter[Code] = Counter()
    early = 0.0

    def check(response: InitTarget.Response) -> None:
        code = Code(response.code)
        codes[code] += 1
        assert (code == Code.SUCCESS) == bool(response.target_id), response.message
        assert response.message
        # A fault in the node is none of these requests'.
        assert code not in (Code.INTERNAL_ERROR, Code.NOT_READY), response.message

    futures = []
    for index in range(REQUESTS):
        request = random_request(rng, scene.box(0), ground.last_stamp)
        futures.append(ground.init_client.call_async(request))
        if len(futures) == IN_FLIGHT:
            wait_until(lambda: all(future.done() for future in futures), 60, "answers")
            for future in futures:
                check(future.result())
            futures.clear()
        if index % 400 == 399:
            ground.show(image_of(scene.image(0), ground.now()), timeout=60)
        if index == REQUESTS // 4:
            early = memory(process)
    assert codes.total() == REQUESTS
    assert memory(process) - early < GROWTH
    assert min(codes[code] for code in Code if 0 < code < 6 and code != Code.NO_IMAGE) > 50
    assert codes[Code.SUCCESS] > 50
    assert_works(ground, scene, image_of)
    assert "Traceback" not in process.log
