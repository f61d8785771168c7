"""Content types: a table of our own, so that a slim image answers as a full one does."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import PurePosixPath

from unzip.zip import charsets

DEFAULT = "application/octet-stream"
_SAMPLE = 16 << 10
_LEAST_HANGUL = 10
# The longer marks first: UTF-32's begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Texts of seven bits that are no ASCII: ISO-2022 by its escapes (those of terminals are others),
# HZ (RFC 1843) by "~{" before pairs, and UTF-16 or UTF-32 without a mark by its NULs.
_SHIFT = re.compile(rb"\x1b[$()*+\-./]|~\{[!-w][!-~]|\0")
_LONGEST_SHIFT = 3
_LAYOUT = "\t\n\v\f\r\x1a\x1b"
_NO_TEXT = ("Cc", "Cn", "Co", "Cs")
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
    bytes that are not ASCII, mostly "". A text of seven bits that may be in another charset of
    seven bits is no UTF-8 for sure.
    """

    def __init__(self) -> None:
        self._decoder: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
        self._sample = b""
        self._cut = False
        self._is_ascii = True
        self._shifts = False
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if len(self._sample) < _SAMPLE:
            self._sample += chunk[: _SAMPLE - len(self._sample)]
        if chunk and self._is_ascii:
            self._look_for_shifts(chunk)
        self._decode(chunk, final=False)

    def _look_for_shifts(self, chunk: bytes) -> None:
        """Remember what a text of ASCII has no use for and charsets of seven bits are made of."""
        self._is_ascii = chunk.isascii()
        joint = self._last + chunk[:_LONGEST_SHIFT]
        self._shifts = self._shifts or bool(_SHIFT.search(joint) or _SHIFT.search(chunk))
        self._last = (joint if len(chunk) < _LONGEST_SHIFT else chunk)[-_LONGEST_SHIFT:]

    def _decode(self, chunk: bytes, *, final: bool) -> None:
        if self._decoder is None:
            self._cut = self._cut or len(self._sample) == _SAMPLE
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
            self._cut = len(self._sample) == _SAMPLE

    def charset(self, *, so_far: bool = False) -> str:
        """The verdict, after the last byte or, as a guess, ``so_far``."""
        if not so_far:
            self._decode(b"", final=True)
        if self._decoder is None:
            return _detect(self._sample, cut=so_far or self._cut)
        return "" if self._is_ascii and self._shifts else "utf-8"


def _detect(sample: bytes, *, cut: bool = False) -> str:
    """What a byte order mark says and the rest bears out, or Korean where nothing else is likely.

    Anything else would be a guess, and none is made. ``cut`` says that more comes behind it.
    """
    for mark, charset in _MARKS:
        if sample.startswith(mark):
            return charset if _reads_as_text(sample, charset, cut=cut) else ""
    return "euc-kr" if b"\0" not in sample and _reads_as_korean(sample) else ""


def _reads_as_text(sample: bytes, charset: str, *, cut: bool) -> bool:
    """Whether these bytes are characters that texts are made of."""
    try:
        text = codecs.getincrementaldecoder(charset)().decode(sample, not cut)
    except UnicodeDecodeError:
        return False
    return all(char in _LAYOUT or unicodedata.category(char) not in _NO_TEXT for char in text)


def _reads_as_korean(sample: bytes) -> bool:
    """Korean is what our users' legacy text is. A word or two could be anything.

    All of it must be Hangul that KS X 1001 has, and the models of languages that names are read
    by must find every other charset far less likely: common Chinese reads as Hangul too.
    """
    try:
        text = sample.decode("cp949")
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 1:
            return False
        sample = sample[: error.start]
        text = sample.decode("cp949")
    foreign = [char for char in text if not char.isascii()]
    hangul = sum("\uac00" <= char <= "\ud7a3" for char in foreign)
    common = sum(_is_common(char) for char in foreign)
    if hangul < _LEAST_HANGUL or common != len(foreign) or hangul * 10 < common * 8:
        return False
    decision = charsets.decide([sample])
    return decision.sure and decision.charset == "cp949"


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
