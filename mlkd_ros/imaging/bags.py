# SPDX-License-Identifier: Apache-2.0
"""rosbag2 bags, read as they are found: whole, split, cut off, without metadata, MCAP or SQLite.

Messages come in the order of recording. Where a clock was set back during it, that is the order in
the file and not that of the times; a note says so. Nothing here needs ROS.

Types come from the definitions in the bag, one type at a time, so that a channel which nobody can
read (JSON, protobuf, IDL of another kind) does no harm to the images beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

from mlkd_ros.files import printable
from mlkd_ros.imaging.bag_types import known_types
from mlkd_ros.imaging.errors import DatasetError

if TYPE_CHECKING:
    from mcap.reader import SeekingReader
    from mcap.records import Channel, Schema

__all__ = ["BAG_SUFFIXES", "Bag", "Recorded", "Topic", "is_bag", "stamp_of"]

BAG_SUFFIXES = frozenset({".mcap", ".db3"})
_COMPRESSED = ".zstd"
#: Times of one topic that go back by more than that were not just written out of order.
_SET_BACK = 500_000_000
_SEPARATOR = "=" * 80 + "\n"


@dataclass(frozen=True)
class Topic:
    """A topic of a bag. `problem` says why its messages cannot be read, empty if they can."""

    name: str
    type: str
    count: int
    problem: str = ""


class Recorded(NamedTuple):
    """A serialised message, and when the recorder got it, in nanoseconds of its clock."""

    topic: str
    received: int
    data: bytes


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a file of one, or a folder with some."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or bool(_files_in(path))
    return _suffix(path) in BAG_SUFFIXES


def stamp_of(data: bytes | memoryview) -> int | None:
    """Stamp, in nanoseconds, of a serialised message that begins with a header; None for zero or
    for data that is too short.
    """
    if len(data) < 12:
        return None
    big = not data[1] & 1
    order: Any = "big" if big else "little"
    seconds = int.from_bytes(data[4:8], order, signed=True)
    return (seconds * 10**9 + int.from_bytes(data[8:12], order)) or None


class Bag:
    """A bag that is open for reading.

    topics: by name. notes: what is wrong with it and what was done about it, a sentence each; more
    may come while it is read. Also a context manager.

    Raises:
        ImportError: A library is missing; the message names the extra.
        DatasetError: It cannot be read as a bag.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = printable(path)
        self.notes: list[str] = []
        if not self.path.exists():
            raise DatasetError(f"{self.name}: no such bag")
        self._stack = contextlib.ExitStack()
        self._storages: list[_Storage] = []
        self._types = _Types()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        files, compressed = self._files()
        problems = []
        for file in files:
            try:
                storage = self._storage(file, compressed)
            except (DatasetError, OSError) as error:
                problems.append(str(error))
                continue
            self._storages.append(storage)
            self._stack.callback(storage.close)
            self.notes.extend(storage.notes)
        if not self._storages:
            raise DatasetError("; ".join(problems) or f"{self.name}: holds no file of a bag")
        self.notes.extend(f"left out: {problem}" for problem in problems)
        self.topics = self._collect()

    def _files(self) -> tuple[list[Path], bool]:
        """The bag's files in the order of recording, and whether messages are compressed."""
        if not self.path.is_dir():
            return [self.path], False
        present = _files_in(self.path)
        try:
            listed, compressed = _listed_files(self.path)
        except DatasetError as error:
            if not present:
                raise
            self.notes.append(f"{error}: its {len(present)} files are read in order of their names")
            return present, False
        missing = [file.name for file in listed if not file.exists()]
        if missing:
            self.notes.append(
                f"{self.name}: metadata.yaml lists {', '.join(missing)}, which is not there"
            )
        extra = [file for file in present if file not in listed]
        if extra:
            # Recording was cut off, or files were added: what is there is read.
            names = ", ".join(file.name for file in extra)
            self.notes.append(
                f"{self.name}: {names} is not in metadata.yaml, and read all the same"
            )
        return sorted([f for f in listed if f.exists()] + extra, key=_order), compressed

    def _storage(self, file: Path, compressed: bool) -> _Storage:
        if file.suffix.lower() == _COMPRESSED:
            file = self._decompressed(file)
        if file.suffix.lower() == ".db3":
            return _Sqlite(file, self._types, compressed)
        return _Mcap(file, self._types, compressed)

    def _decompressed(self, file: Path) -> Path:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mlkd_bag_")))
        target = folder / file.stem
        try:
            with file.open("rb") as packed, target.open("wb") as unpacked:
                _zstandard().ZstdDecompressor().copy_stream(packed, unpacked)
        except _zstandard().ZstdError as error:
            raise DatasetError(f"{printable(file)}: cannot be decompressed: {error}") from error
        return target

    def _collect(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for storage in self._storages:
            for found in storage.topics:
                known = topics.get(found.name)
                if known is not None and known.type != found.type:
                    self.notes.append(
                        f"{self.name}: topic {found.name} has two types, {known.type} and "
                        f"{found.type}: the second one is left out"
                    )
                    continue
                count = found.count + (known.count if known else 0)
                topics[found.name] = Topic(found.name, found.type, count, found.problem)
        return topics

    def of_type(self, *types: str) -> dict[str, Topic]:
        """The topics of these types by name."""
        return {name: topic for name, topic in self.topics.items() if topic.type in types}

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """Serialised messages of these topics, in the order of recording.

        Where the bag is damaged it ends; what was read until then is good, and a note says so.
        """
        for storage in self._storages:
            try:
                yield from storage.messages(frozenset(topics))
            except Exception as error:  # of three libraries, and none of them documents which
                self.notes.append(
                    f"{printable(storage.file)}: cannot be read to its end: "
                    f"{type(error).__name__}: {error}"
                )

    def decode(self, topic: str, data: bytes) -> Any:
        """A message of a topic as an object with its fields.

        Raises:
            DatasetError: It cannot be read; the topic and the type are named.
        """
        kind = self.topics[topic].type
        try:
            return self._types.decode(kind, data)
        except DatasetError as error:
            raise DatasetError(f"{self.name}, topic {topic}: {error}") from error

    def close(self) -> None:
        """Close its files."""
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Storage(Protocol):
    """One file of a bag."""

    file: Path
    topics: list[Topic]
    notes: list[str]

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]: ...

    def close(self) -> None: ...


class _Mcap:
    """An MCAP file. One that was cut off is read up to there."""

    def __init__(self, file: Path, types: _Types, compressed: bool) -> None:
        self.file = file
        self.notes: list[str] = []
        self._unpack = _unpacker(compressed)
        try:
            from mcap.reader import SeekingReader
        except ImportError:
            raise _missing("mcap") from None
        self._stream = file.open("rb")
        try:
            self._reader: SeekingReader = SeekingReader(self._stream)
            self._whole = self._has_summary()
            channels = self._channels()
        except Exception as error:  # damaged data comes up as whatever the parser ran into
            self._stream.close()
            raise DatasetError(
                f"{printable(file)}: cannot be read as an MCAP file: "
                f"{type(error).__name__}: {error}"
            ) from error
        self.topics = [_topic_of(c, s, n, types) for c, s, n in channels]
        self._by_time = self._whole and not self._clock_was_set_back()
        if self._whole and not self._by_time:
            self.notes.append(_set_back_note(file))

    def _has_summary(self) -> bool:
        """Whether the file has its end. A cut-off one has none, and may break anywhere."""
        try:
            summary = self._reader.get_summary()
        except Exception:  # damaged data comes up as whatever the parser ran into
            summary = None
        if summary is None or not summary.channels:
            return False
        return bool(summary.chunk_indexes) and summary.statistics is not None

    def _channels(self) -> list[tuple[Channel, Schema | None, int]]:
        """Channel, schema and number of messages."""
        if self._whole:
            summary = self._reader.get_summary()
            assert summary is not None and summary.statistics is not None
            counts = summary.statistics.channel_message_counts
            return [
                (channel, summary.schemas.get(channel.schema_id), counts.get(number, 0))
                for number, channel in summary.channels.items()
            ]
        found: dict[int, tuple[Channel, Schema | None, int]] = {}
        for schema, channel, _ in self._scan():
            found[channel.id] = (channel, schema, found.get(channel.id, (None, None, 0))[2] + 1)
        return list(found.values())

    def _clock_was_set_back(self) -> bool:
        """Whether, in the order of the file, the times of one channel go back."""
        summary = self._reader.get_summary()
        assert summary is not None
        latest: dict[int, int] = {}
        for chunk in sorted(summary.chunk_indexes, key=lambda one: one.chunk_start_offset):
            for channel, offset in chunk.message_index_offsets.items():
                times = [chunk.message_start_time, chunk.message_end_time]
                if times[1] - times[0] > _SET_BACK:  # who knows in which order
                    times = self._times_at(offset)
                for time in times:
                    if time < latest.get(channel, 0) - _SET_BACK:
                        return True
                    latest[channel] = max(latest.get(channel, 0), time)
        return False

    def _times_at(self, offset: int) -> list[int]:
        """The times of a channel's messages in one chunk, in the order of writing."""
        from mcap.data_stream import ReadDataStream
        from mcap.records import MessageIndex

        self._stream.seek(offset + 1 + 8)  # behind operation and length
        index = MessageIndex.read(ReadDataStream(self._stream))
        return [time for time, _ in sorted(index.records, key=lambda record: record[1])]

    def _scan(self) -> Iterator[tuple[Any, Any, Any]]:
        """Everything, front to back, up to where the file breaks off; that is noted once."""
        from mcap.reader import NonSeekingReader

        self._stream.seek(0)
        reader = NonSeekingReader(self._stream)
        try:
            yield from reader.iter_messages(log_time_order=False)
        except Exception as error:  # damaged data comes up as whatever the parser ran into
            note = (
                f"{printable(self.file)}: breaks off ({type(error).__name__}): a recording "
                "that was cut off; what was written before is read"
            )
            if note not in self.notes:
                self.notes.append(note)

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        found = (
            self._reader.iter_messages(topics=topics, log_time_order=self._by_time)
            if self._whole
            else self._scan()
        )
        for _, channel, message in found:
            if channel.topic in topics:
                yield Recorded(channel.topic, message.log_time, self._unpack(message.data))

    def close(self) -> None:
        self._stream.close()


def _topic_of(channel: Channel, schema: Schema | None, count: int, types: _Types) -> Topic:
    kind = schema.name if schema is not None else ""
    if channel.message_encoding != "cdr":
        problem = f"its messages are {channel.message_encoding or 'of unknown encoding'}, not CDR"
        return Topic(channel.topic, kind, count, problem)
    if schema is not None and schema.encoding in ("ros2msg", "ros2idl", "omgidl"):
        text = schema.data.decode("utf-8", "replace")
        types.define(kind, schema.encoding, text)
    return Topic(channel.topic, kind, count)


class _Sqlite:
    """A db3 file. What is still in its write-ahead log belongs to it."""

    def __init__(self, file: Path, types: _Types, compressed: bool) -> None:
        self.file = file
        self.notes: list[str] = []
        self._unpack = _unpacker(compressed)
        self._stack = contextlib.ExitStack()
        try:
            self._database = self._connect(file)
            self.topics = self._read_topics(types)
            self._by_time = not self._clock_was_set_back()
        except sqlite3.Error as error:
            self._stack.close()
            raise DatasetError(
                f"{printable(file)}: cannot be read as a rosbag2 database: {error}"
            ) from error
        if not self._by_time:
            self.notes.append(_set_back_note(file))

    def _connect(self, file: Path) -> sqlite3.Connection:
        """Open it without changing a byte: a log that was not merged is merged in a copy."""
        log = file.with_name(f"{file.name}-wal")
        if log.exists() and log.stat().st_size:
            folder = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mlkd_bag_"))
            )
            for one in (file, log):
                shutil.copyfile(one, folder / one.name)
            self.notes.append(f"{printable(file)}: its write-ahead log was not merged; it is read")
            file = folder / file.name
        # As bytes: a name that is not UTF-8 works, too.
        uri = f"file:{quote(os.fsencode(file.absolute()))}?mode=ro"
        if file is self.file:
            uri += "&immutable=1"  # nobody writes to it: no lock, no files beside it
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._stack.callback(database.close)
        return database

    def _read_topics(self, types: _Types) -> list[Topic]:
        definitions = self._rows("PRAGMA table_info(message_definitions)")
        if definitions:
            for kind, encoding, text in self._rows(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                types.define(kind, encoding, text)
        found = self._rows(
            "SELECT name, type, serialization_format, COUNT(messages.id) FROM topics "
            "LEFT JOIN messages ON topics.id = messages.topic_id GROUP BY topics.id"
        )
        return [
            Topic(name, kind, count, "" if form == "cdr" else f"its messages are {form}, not CDR")
            for name, kind, form, count in found
        ]

    def _rows(self, query: str) -> list[Any]:
        return self._database.execute(query).fetchall()

    def _clock_was_set_back(self) -> bool:
        query = (
            "SELECT 1 FROM (SELECT timestamp - LAG(timestamp) OVER "
            "(PARTITION BY topic_id ORDER BY id) AS step FROM messages) "
            f"WHERE step < -{_SET_BACK} LIMIT 1"
        )
        return bool(self._rows(query))

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        marks = ",".join("?" * len(topics))
        order = "timestamp" if self._by_time else "messages.id"
        rows = self._database.execute(
            "SELECT name, timestamp, data FROM messages JOIN topics ON "
            f"topics.id = messages.topic_id WHERE name IN ({marks}) ORDER BY {order}",
            tuple(topics),
        )
        for name, received, data in rows:
            yield Recorded(name, received, self._unpack(data))

    def close(self) -> None:
        self._stack.close()


class _Types:
    """How to read messages, by type; each is looked at when it is needed first.

    A type without a definition in the bag (bags from before Iron have none) is taken as Humble has
    it, and if that does not fit, as the older distributions had it.
    """

    def __init__(self) -> None:
        self._definitions: dict[str, list[tuple[str, str]]] = {}
        self._readers: dict[str, list[Callable[[bytes], Any]]] = {}

    def define(self, kind: str, encoding: str, text: str) -> None:
        """Note a definition; one that is no good is found out when it is needed."""
        known = self._definitions.setdefault(kind, [])
        if (encoding, text) not in known:
            known.append((encoding, text))

    def decode(self, kind: str, data: bytes) -> Any:
        """A serialised message as an object. Raises DatasetError."""
        if kind not in self._readers:
            self._readers[kind] = list(self._make(kind))
        readers = self._readers[kind]
        reason = "nothing here says how such messages are laid out"
        for index, read in enumerate(readers):
            try:
                message = read(data)
            except Exception as error:  # rosbags: of many kinds, assertions among them
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
                continue
            if index:  # the others were wrong, and will be
                readers.insert(0, readers.pop(index))
            return message
        raise DatasetError(f"{kind} cannot be read: {reason}")

    def _make(self, kind: str) -> Iterator[Callable[[bytes], Any]]:
        try:
            from rosbags.typesys import Stores, get_typestore
        except ImportError:
            raise _missing("rosbags") from None
        for encoding, text in self._definitions.get(kind, []):
            with contextlib.suppress(Exception):  # of the library's parsers: then without it
                store = get_typestore(Stores.EMPTY)
                store.register(_parse(kind, encoding, text))
                yield partial(store.deserialize_cdr, typename=kind)
        for store in known_types():
            if kind in store.types:
                yield partial(store.deserialize_cdr, typename=kind)


def _parse(kind: str, encoding: str, text: str) -> Any:
    from rosbags.typesys import get_types_from_idl, get_types_from_msg

    if encoding == "ros2msg":
        return get_types_from_msg(text, kind)
    types: dict[str, Any] = {}
    parts = text.split(_SEPARATOR)[1:] if text.startswith(_SEPARATOR) else [f"\n{text}"]
    for part in parts:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))
    return types


def _unpacker(compressed: bool) -> Callable[[bytes], bytes]:
    if not compressed:
        return bytes
    unpack: Callable[[bytes], bytes] = _zstandard().ZstdDecompressor().decompress
    return unpack


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise _missing("zstandard") from None
    return zstandard


def _missing(library: str) -> ImportError:
    return ImportError(
        f"reading a bag needs the Python package {library}: pip install 'mlkd-ros[bags]'"
    )


def _listed_files(folder: Path) -> tuple[list[Path], bool]:
    """The files that metadata.yaml lists, and whether their messages are compressed one by one."""
    file = folder / "metadata.yaml"
    if not file.is_file():
        raise DatasetError(f"{printable(folder)}: there is no metadata.yaml")
    try:
        import yaml
    except ImportError:
        raise _missing("PyYAML") from None
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        about = content["rosbag2_bagfile_information"]
        names = [Path(name).name for name in about["relative_file_paths"]]
        mode = str(about.get("compression_mode") or "").lower()
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise DatasetError(f"{printable(file)}: cannot be read ({type(error).__name__})") from error
    return [folder / name for name in names], mode == "message"


def _files_in(folder: Path) -> list[Path]:
    return sorted((f for f in folder.iterdir() if _suffix(f) in BAG_SUFFIXES), key=_order)


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(_COMPRESSED)
    return Path(name).suffix


def _order(path: Path) -> list[tuple[int, int | str]]:
    from mlkd_ros.imaging.images import natural_key

    return natural_key(path)


def _set_back_note(file: Path) -> str:
    return (
        f"{printable(file)}: the recorder's clock was set back during the recording: messages are "
        "taken in the order in which they were written"
    )
