# SPDX-License-Identifier: Apache-2.0
"""What belongs to a camera and not to one of its images: how stored values become pictures.

The node has these as parameters and publishes them, a recording keeps them with its images, and
every command that reads images has them as options, so that all of them see the same pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BAYER_PATTERNS",
    "CAMERA_TOPIC",
    "ORIENTATIONS",
    "CameraSettings",
    "add_options",
    "from_options",
]

BAYER_PATTERNS = ("rggb", "bggr", "gbrg", "grbg")
ORIENTATIONS = ("stored", "exif")
#: Where the settings are published and recorded, as std_msgs/String with `CameraSettings.to_json`.
CAMERA_TOPIC = "camera_settings"


@dataclass(frozen=True)
class CameraSettings:
    """Settings of a stream of images.

    black, white: values of 16-bit images that are shown as 0 and 255; linear between them.
    bayer: colour mosaic that 8-bit grey images lie under although their encoding does not say so,
    empty for none. orientation: "stored", pixels as they lie in the file, which is how a camera
    that is fixed to an aircraft is meant; or "exif", turned as a compressed image's EXIF tag asks.

    Raises:
        ValueError: A value that makes no sense; the message names it as the node's parameter.
    """

    black: int = 0
    white: int = 65535
    bayer: str = ""
    orientation: str = "stored"

    def __post_init__(self) -> None:
        if not 0 <= self.black < self.white <= 65535:
            raise ValueError(
                f"'mono16_black' ({self.black}) must be below 'mono16_white' ({self.white}), both "
                "from 0 to 65535"
            )
        if self.bayer and self.bayer not in BAYER_PATTERNS:
            raise ValueError(
                f"'bayer_pattern' is '{self.bayer}', it must be empty or one of "
                f"{', '.join(BAYER_PATTERNS)}"
            )
        if self.orientation not in ORIENTATIONS:
            raise ValueError(
                f"'orientation' is '{self.orientation}', it must be one of "
                f"{', '.join(ORIENTATIONS)}"
            )

    def to_json(self) -> str:
        """As text, for a topic or a file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CameraSettings:
        """What `to_json` wrote. Fields that this version does not know are ignored.

        Raises ValueError for text that is something else.
        """
        values: Any = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"{text[:60]!r} are no settings of a camera")
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise ValueError(f"{text[:60]!r} are no settings of a camera: {error}") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the settings as options. Not given: those that were recorded with the images."""
    group = parser.add_argument_group(
        "camera", "how stored values become pictures; not given: as recorded with the images"
    )
    group.add_argument(
        "--mono16-black",
        type=int,
        metavar="VALUE",
        help="value of a 16-bit image that is black (default 0)",
    )
    group.add_argument(
        "--mono16-white",
        type=int,
        metavar="VALUE",
        help="value of a 16-bit image that is white (default 65535)",
    )
    group.add_argument(
        "--bayer-pattern",
        choices=BAYER_PATTERNS,
        help="colour mosaic that 8-bit grey images lie under",
    )
    group.add_argument(
        "--orientation",
        choices=ORIENTATIONS,
        help="stored: pixels as they lie in the file (default); exif: turned as the file asks",
    )


def from_options(options: argparse.Namespace) -> CameraSettings | None:
    """The settings that were given, None if none was. Raises ValueError."""
    given = {
        "black": options.mono16_black,
        "white": options.mono16_white,
        "bayer": options.bayer_pattern,
        "orientation": options.orientation,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return CameraSettings(**given) if given else None
