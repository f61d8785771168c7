"""Paths as callers write them: what is refused, what is removed, where they lead. All pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

_ALLOWED = re.compile(rb"^[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*\Z")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HIDDEN = re.compile(rb"%(2f|5c|00)", re.IGNORECASE)
# Forms that are no UTF-8, and that lenient decoders read as the character.
_OVERLONG_DOT = re.compile(rb"\xc0\xae|\xe0\x80\xae")
_OVERLONG_SLASH = re.compile(rb"\xc0\xaf|\xe0\x80\xaf|\xc1\x9c|\xe0\x81\x9c")


class BadPathError(ValueError):
    """A path that means one thing here and might mean another thing behind us."""


def check(raw: bytes) -> bytes:
    """The path as it may be passed on, or BadPathError.

    Refused: dot segments, plain, encoded or encoded twice; encoded slashes, backslashes and
    NULs; empty segments; characters and escapes outside RFC 3986.
    """
    if not raw.startswith(b"/"):
        raise BadPathError("the path must begin with a slash")
    if not _ALLOWED.match(raw):
        raise BadPathError("the path holds characters that need percent-encoding")
    if b"//" in raw:
        raise BadPathError("the path has an empty segment")
    decoded = raw
    if b"%" in raw:
        if _BAD_ESCAPE.search(raw):
            raise BadPathError("the path has a broken percent escape")
        for _ in range(3):
            if _HIDDEN.search(decoded):
                raise BadPathError("the path hides a slash, backslash or NUL in an escape")
            following = unquote_to_bytes(decoded)
            if following == decoded:
                break
            decoded = following
        else:
            if b"%" in decoded:
                raise BadPathError("the path is percent-encoded more than twice")
    if b"\\" in decoded or any(code < 0x20 or code == 0x7F for code in decoded):
        raise BadPathError("the path holds a backslash or a control character")
    spelled = _OVERLONG_SLASH.sub(b"/", _OVERLONG_DOT.sub(b".", decoded))
    for segment in spelled.split(b"/"):
        name = segment.split(b";", 1)[0]
        # Windows, and servers that strip names, read `.. ` as `..`.
        if name in (b".", b"..") or (b"." in name and b" " in name and not name.strip(b". ")):
            raise BadPathError("the path climbs: it has a dot segment")
    return raw


_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normalized(raw: bytes) -> bytes:
    """The path in the one spelling that is decided on, routed and passed on.

    RFC 3986 section 6.2.2: an escaped letter, digit or one of ``-._~`` means the character
    itself, and the hex digits of an escape mean the same in either case.
    """
    return _ESCAPE.sub(_unescaped, raw) if b"%" in raw else raw


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = int(match[1], 16)
    return bytes((code,)) if code in _UNRESERVED else match[0].upper()


def lenient(path: bytes) -> bytes:
    """The path as the most lenient server behind us might read it.

    Escapes decoded until none is left, path parameters (``;x``), blanks and dots at the ends of
    segments removed, and case ignored.
    """
    for _ in range(3):
        path = unquote_to_bytes(path)
    segments = (segment.split(b";", 1)[0].strip(b" .") for segment in path.split(b"/"))
    return b"/".join(segments).lower()


def without_stage(raw: bytes, prefixes: Iterable[bytes]) -> bytes:
    """``/dev/v2/…`` as ``/v2/…`` where ``/dev`` is a stage prefix; once, by complete segments."""
    for prefix in prefixes:
        if raw.startswith(prefix) and (len(raw) == len(prefix) or raw[len(prefix)] == 0x2F):
            return raw[len(prefix) :] or b"/"
    return raw


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A ``/v2/models/…`` path: the model, and what follows its name (``/infer``, or empty)."""

    model: str
    rest: bytes
    verb: str
    """The last segment where it is one of the protocol's, else empty."""


LONGEST_MODEL_PATH = 256
"""Bytes: more than a model, a version and a verb can have."""
_VERBS = frozenset({b"infer", b"ready", b"config", b"stats", b"generate", b"generate_stream"})
_MODEL = re.compile(
    rb"^/v2/models/([A-Za-z0-9][A-Za-z0-9._-]{0,127})"
    rb"((?:/versions/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?"
    rb"(?:/(?:infer|ready|config|stats|generate|generate_stream))?)\Z"
)


def model_path(raw: bytes) -> ModelPath | None:
    """The parts of a model's path, or None where it is not one of the protocol's."""
    return _model_path(raw) if len(raw) <= LONGEST_MODEL_PATH else None


@lru_cache(maxsize=1024)
def _model_path(raw: bytes) -> ModelPath | None:
    match = _MODEL.match(raw)
    if match is None:
        return None
    rest = match.group(2)
    last = rest.rsplit(b"/", 1)[-1]
    return ModelPath(match.group(1).decode(), rest, last.decode() if last in _VERBS else "")


def upstream_key(path: bytes, keys: Collection[str]) -> str | None:
    """The key that ``path`` (without leading slash) leads to, None where it leads to none.

    BadPathError where a server behind us could read the path as one below another key: what
    the caller may do was then decided for the wrong one.
    """
    key = longest_prefix(path, keys)
    if key is not None and len(keys) > 1:
        folded = {each.lower(): each for each in keys}
        read = longest_prefix(lenient(path), folded)
        if read is not None and folded[read].lower() != key.lower():
            raise BadPathError(f"the path could also mean {folded[read]!r}; write it plainly")
    return key


def longest_prefix(path: bytes, keys: Iterable[str]) -> str | None:
    """The key with the most segments that ``path`` (without leading slash) begins with."""
    best: str | None = None
    for key in keys:
        encoded = key.encode()
        fits = key == "" or path == encoded or path.startswith(encoded + b"/")
        if fits and (best is None or len(key) > len(best)):
            best = key
    return best
