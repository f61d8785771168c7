"""What a file is that has no end record: said to whoever sent it in place of a zip."""

from __future__ import annotations

_LOCAL = b"PK\x03\x04"
_SPLIT = b"PK\x07\x08"
_KNOWN = (
    (b"\x1f\x8b", "gzip, as a .tar.gz is"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"EGGA", "an EGG archive of ALZip"),
    (b"ALZ\x01", "an ALZ archive of ALZip"),
    (b"%PDF-", "a PDF"),
    (b"<?xml", "an XML document, mostly an error message"),
    (b"<!doctype html", "a web page, mostly an error message"),
    (b"<html", "a web page, mostly an error message"),
    (b"{", "JSON, mostly an error message"),
)
HEAD_BYTES = 512
_TAR_MAGIC = slice(257, 262)


def described(head: bytes) -> str:
    """What a file with these first bytes (``HEAD_BYTES`` of them, if there are so many) is."""
    if not head:
        return "the file is empty"
    if head.startswith(_LOCAL):
        return (
            "it begins as a zip, so its end is missing: the upload was cut short, or this is the "
            "first part of an archive in parts"
        )
    if head.startswith(_SPLIT):
        return "this is the first part of an archive in parts"
    plain = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _KNOWN:
        if head.startswith(magic) or plain.startswith(magic):
            return f"this is no zip but {what}"
    if head[_TAR_MAGIC] == b"ustar":
        return "this is no zip but a tar archive"
    return "this is no zip, or its end is missing"
