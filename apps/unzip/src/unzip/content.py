"""Content types: a table of our own, so that a slim image answers as a full one does."""

from __future__ import annotations

import codecs
from pathlib import PurePosixPath

DEFAULT = "application/octet-stream"
_SAMPLE = 16 << 10
_LEAST_HANGUL = 10
# macOS keeps a file's attributes beside it, under "._" and its name (RFC 1740).
_APPLE_DOUBLE, _APPLE_TYPE = b"\x00\x05\x16\x07", "application/applefile"

# IANA's names, or the one in common use where IANA has none.
_TYPES = {
    "7z": "application/x-7z-compressed",
    "aac": "audio/aac",
    "arrow": "application/vnd.apache.arrow.file",
    "avi": "video/x-msvideo",
    "avif": "image/avif",
    "avro": "application/vnd.apache.avro",
    "bin": DEFAULT,
    "bmp": "image/bmp",
    "bz2": "application/x-bzip2",
    "cfg": "text/plain",
    "conf": "text/plain",
    "css": "text/css",
    "csv": "text/csv",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "eml": "message/rfc822",
    "env": "text/plain",
    "feather": "application/vnd.apache.arrow.file",
    "flac": "audio/flac",
    "geojson": "application/geo+json",
    "gif": "image/gif",
    "gz": "application/gzip",
    "heic": "image/heic",
    "htm": "text/html",
    "html": "text/html",
    "hwp": "application/x-hwp",
    "hwpx": "application/hwp+zip",
    "ico": "image/vnd.microsoft.icon",
    "ini": "text/plain",
    "ipynb": "application/x-ipynb+json",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "jsonld": "application/ld+json",
    "log": "text/plain",
    "m4a": "audio/mp4",
    "markdown": "text/markdown",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "mkv": "video/matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "ndjson": "application/x-ndjson",
    "npy": DEFAULT,
    "npz": "application/zip",
    "ogg": "audio/ogg",
    "onnx": DEFAULT,
    "orc": "application/vnd.apache.orc",
    "otf": "font/otf",
    "parquet": "application/vnd.apache.parquet",
    "pdf": "application/pdf",
    "pkl": DEFAULT,
    "png": "image/png",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "properties": "text/plain",
    "py": "text/x-python",
    "rst": "text/x-rst",
    "rtf": "application/rtf",
    "sh": "text/x-shellscript",
    "sql": "application/sql",
    "srt": "text/plain",
    "svg": "image/svg+xml",
    "tar": "application/x-tar",
    "tgz": "application/gzip",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "toml": "application/toml",
    "tsv": "text/tab-separated-values",
    "ttf": "font/ttf",
    "txt": "text/plain",
    "vtt": "text/vtt",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "webm": "video/webm",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xhtml": "application/xhtml+xml",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
    "xz": "application/x-xz",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
    "zst": "application/zstd",
}
_TEXT_WITHOUT_SUFFIX = {"readme", "license", "licence", "copying", "makefile", "dockerfile"}
# Not text/*, yet read as text by people and browsers alike. JSON has no charset: RFC 8259.
_TEXTUAL = {"application/yaml", "application/toml", "application/sql", "application/xml"}


def media_type(path: str) -> str:
    """The media type of a file by its name alone, without parameters."""
    name = PurePosixPath(path)
    if not name.suffix and name.name.lower() in _TEXT_WITHOUT_SUFFIX:
        return "text/plain"
    return _TYPES.get(name.suffix[1:].lower(), DEFAULT)


def is_text(media: str) -> bool:
    """Whether a charset may stand beside this type."""
    return media.startswith("text/") or media in _TEXTUAL


class TextProbe:
    """Learns the charset of a text from all of its bytes, holding no more than a sample.

    ``charset`` is ``utf-8`` only when every byte fits; otherwise what is certain of the first
    bytes that are not ASCII, mostly "".
    """

    def __init__(self) -> None:
        self._decoder: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
        self._sample = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if len(self._sample) < _SAMPLE:
            self._sample += chunk[: _SAMPLE - len(self._sample)]
        self._decode(chunk, final=False)

    def _decode(self, chunk: bytes, *, final: bool) -> None:
        if self._decoder is None:
            return
        if not final and chunk.isascii() and not self._decoder.getstate()[0]:
            return
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            self._decoder = None
            if self._sample.isascii():
                # Detection needs the part that is not ASCII, wherever it begins.
                self._sample = chunk[max(0, error.start - 512) :][:_SAMPLE]

    def charset(self, *, so_far: bool = False) -> str:
        """The verdict, after the last byte or, as a guess, ``so_far``."""
        if not so_far:
            self._decode(b"", final=True)
        return "utf-8" if self._decoder is not None else _detect(self._sample)


def _detect(sample: bytes) -> str:
    """A byte order mark, or clearly Korean: anything else would be a guess, and none is made."""
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "euc-kr" if b"\0" not in sample and _reads_as_korean(sample) else ""


def _reads_as_korean(sample: bytes) -> bool:
    """Korean is what our users' legacy text is. A word or two could be anything."""
    try:
        text = sample.decode("cp949")
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 1:
            return False
        text = sample[: error.start].decode("cp949")
    foreign = [char for char in text if not char.isascii()]
    hangul = sum("\uac00" <= char <= "\ud7a3" for char in foreign)
    common = sum(_is_common(char) for char in foreign)
    return hangul >= _LEAST_HANGUL and common == len(foreign) and hangul * 10 >= common * 8


def _is_common(char: str) -> bool:
    """Whether KS X 1001 has it; CP949's further syllables are hardly used."""
    try:
        char.encode("euc_kr")
    except UnicodeEncodeError:
        return False
    return True


class Probe:
    """The content type of a file by its name and, where it is a text, by all of its bytes."""

    def __init__(self, path: str) -> None:
        self._media = media_type(path)
        self._text = TextProbe() if is_text(self._media) else None
        self._may_be_apple_double = PurePosixPath(path).name.startswith("._")

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._may_be_apple_double and chunk:
            self._may_be_apple_double = False
            if chunk.startswith(_APPLE_DOUBLE):
                self._media, self._text = _APPLE_TYPE, None
        if self._text is not None:
            self._text.feed(chunk)

    def content_type(self, *, so_far: bool = False) -> str:
        """The header's value, after the last byte or, as a guess, ``so_far``."""
        charset = self._text.charset(so_far=so_far) if self._text is not None else ""
        return f"{self._media}; charset={charset}" if charset else self._media


class TargetProbe:
    """What a symbolic link points at: its data, so that the manifest can name it."""

    def __init__(self) -> None:
        self._target = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._target += chunk

    def content_type(self, *, so_far: bool = False) -> str:
        """The target; bytes that are no UTF-8 as escapes."""
        return self._target.decode("utf-8", "backslashreplace")
