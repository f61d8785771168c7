"""Whom an HTTPS client trusts, read once in a process: reading them takes longer than a request."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

import httpx


def authorities() -> ssl.SSLContext:
    """httpx's authorities, or those that SSL_CERT_FILE and SSL_CERT_DIR name now."""
    return _authorities(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _authorities(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The variables are the cache's key; httpx reads them itself."""
    return httpx.create_ssl_context()
