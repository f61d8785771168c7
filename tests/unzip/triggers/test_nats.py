"""Notifications by NATS: a real nats-server, told by a real versitygw."""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from tests.ports import free_port
from tests.s3 import serve_s3
from tests.unzip import zips
from tests.unzip.conftest import session
from tests.unzip.nats_server import GROUP, STREAM, SUBJECT, NatsServer, serve_nats
from tests.unzip.support import Recorder, files_below, manifest_of, put, service_on, settings_for
from tests.unzip.triggers.test_watch import KEY, RESULT, event, watching
from tests.waits import SECONDS, until
from unzip.extract.extractor import Extractor
from unzip.ledger.records import Archive
from unzip.processing.service import Service, Tally
from unzip.s3.client import S3
from unzip.triggers.nats import Subscriber, Unfit, credentials, tls_context
from unzip.triggers.watcher import Watcher

both = pytest.mark.parametrize("stream", ["", STREAM], ids=["core", "jetstream"])


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with serve_nats(tmp_path / "nats") as server:
        yield server


@contextmanager
def listening(service: Service, **times: float) -> Iterator[Subscriber]:
    """A subscriber, and the watcher that core NATS needs, until the block is left."""
    watcher = Watcher(service)
    watcher.start()
    subscriber = Subscriber(service, watcher, retry_seconds=0.05, **times)
    thread = threading.Thread(target=subscriber.run)
    thread.start()
    try:
        yield subscriber
    finally:
        service.stop.request(5)
        thread.join(SECONDS)
        watcher.join()
        assert not thread.is_alive()


def service_by(
    nats: NatsServer, store: S3, extractor: Extractor, *targets: Any, **changes: Any
) -> Service:
    """A service that finds nothing by listing: what it does it was told."""
    values: dict[str, Any] = {
        "nats_url": nats.url,
        "nats_stream": STREAM,
        "watch_list_seconds": 3600,
    }
    service = service_on(store, extractor, *targets, **(values | changes))
    service.sweep = Tally  # type: ignore[method-assign]
    return service


def is_heard(nats: NatsServer, stream: str) -> bool:
    """Whether somebody will get the next message."""
    if not stream:
        return nats.has_listeners()
    try:
        return bool(nats.consumer().num_waiting)
    except (NotFoundError, NatsError):  # not there yet, or the server has only just begun
        return False


@both
def test_nats_from_put_to_manifest_as_by_listing(
    tmp_path: Path, nats_server: NatsServer, extractor: Extractor, stream: str
) -> None:
    """The whole way with real programs: versitygw tells NATS, NATS `unzip watch`."""
    archive = zips.standard({"가.txt": b"1", "b/c.json": b"{}"})
    options = ["--event-nats-url", nats_server.url, "--event-nats-topic", SUBJECT]
    if stream:
        nats_server.add_stream()
    with serve_s3(tmp_path, ["archives", "listed"], options) as s3:
        environment = s3.environment() | {
            "UNZIP_PORT": "0",
            "UNZIP_STOP_DELAY_SECONDS": "0",
            "UNZIP_WATCH_LIST_SECONDS": "3600",
            "UNZIP_NATS_URL": nats_server.url,
            "UNZIP_NATS_STREAM": stream,
        }
        log = tmp_path / "watch.log"
        stores = {
            name: S3(name, session=session(), endpoint=s3.url) for name in ("archives", "listed")
        }
        with watching(environment, log):
            until(lambda: '"listed"' in log.read_text() and is_heard(nats_server, stream))
            put(stores["archives"], KEY, archive)
            until(lambda: manifest_of(stores["archives"], RESULT) is not None)
            if stream:  # also what its own writes caused, the manifest's among it
                until(nats_server.is_done)
        put(stores["listed"], KEY, archive)
        service_on(stores["listed"], extractor).sweep()
        told, listed = (manifest_of(store, RESULT) for store in stores.values())
        assert told is not None
        assert listed is not None
        assert told.pop("source")["size"] == listed.pop("source")["size"]
        assert told == listed
        assert files_below(stores["archives"], RESULT) == files_below(stores["listed"], RESULT)


def test_a_message_is_acknowledged_when_its_archive_is_closed(
    nats_server: NatsServer, store: S3, extractor: Extractor
) -> None:
    """Told twice, at once and later: done once."""
    nats_server.add_stream()
    backend = Recorder()
    put(store, KEY, zips.standard({"a": b"1"}))
    put(store, "bad/result.zip", zips.BAD["wrong crc"][0])
    keys = (KEY, KEY, "bad/result.zip", "gone/result.zip", "kim/other.zip", KEY)
    # Published before anybody listens: the stream keeps them.
    nats_server.publish(*(event(store.bucket, key) for key in keys))
    service = service_by(nats_server, store, extractor, backend, archives_at_once=4)
    with listening(service, again_seconds=0.1):
        until(lambda: is_heard(nats_server, STREAM) and nats_server.is_done())
    assert files_below(store, RESULT) == {"a": b"1"}
    assert sorted(event["data"]["outcome"] for event in backend.events) == ["published", "refused"]


def test_a_message_comes_again_while_somebody_else_has_the_archive(
    nats_server: NatsServer, store: S3, extractor: Extractor
) -> None:
    nats_server.add_stream()
    service = service_by(nats_server, store, extractor)
    with listening(service, again_seconds=0.1):
        until(lambda: is_heard(nats_server, STREAM))
        etag = put(store, KEY, zips.standard({"a": b"1"}))
        lease = service.ledger.claim(Archive(store.bucket, KEY, etag, store.head(KEY).size))
        assert lease is not None
        nats_server.publish(event(store.bucket, KEY))
        until(lambda: nats_server.deliveries() > 2)
        assert not nats_server.is_done()
        lease.release()
        until(nats_server.is_done)
    assert files_below(store, RESULT) == {"a": b"1"}


@both
def test_messages_that_nobody_understands_are_told_and_dropped(
    nats_server: NatsServer,
    store: S3,
    extractor: Extractor,
    stream: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bad = (b"", b"hello", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"Records": [{}]}')
    put(store, KEY, zips.standard({"a": b"1"}))
    if stream:
        nats_server.add_stream()
    with listening(service_by(nats_server, store, extractor, nats_stream=stream)):
        until(lambda: is_heard(nats_server, stream))
        capfd.readouterr()
        nats_server.publish(*bad, event(store.bucket, KEY))
        until(lambda: manifest_of(store, RESULT) is not None)
        if stream:
            until(nats_server.is_done)
            assert nats_server.deliveries() == len(bad) + 1  # none came again
    assert capfd.readouterr().out.count("unknown message") == len(bad)


@both
def test_a_server_that_was_restarted_is_found_again(
    nats_server: NatsServer, store: S3, extractor: Extractor, stream: str
) -> None:
    if stream:
        nats_server.add_stream()
    with listening(service_by(nats_server, store, extractor, nats_stream=stream)):
        for user in ("kim", "lee"):
            until(lambda: is_heard(nats_server, stream))
            put(store, f"{user}/result.zip", zips.standard({"a": b"1"}))
            nats_server.publish(event(store.bucket, f"{user}/result.zip"))
            result = f"{user}/result/"
            until(lambda result=result: manifest_of(store, result) is not None)  # type: ignore[misc]
            nats_server.stop()
            nats_server.start()


@both
def test_a_client_that_was_turned_away_comes_again(
    tmp_path: Path, store: S3, extractor: Extractor, stream: str
) -> None:
    """A user who is taken off the server and put back, as when a password is changed."""

    def users(*names: str) -> str:
        listed = ", ".join(f'{{user: {name}, password: "p w"}}' for name in names)
        return f"authorization {{ users: [{listed}] }}"

    options = {"user": "admin", "password": "p w"}
    with serve_nats(tmp_path / "nats", config=users("admin", "unzip"), options=options) as nats:
        if stream:
            nats.add_stream()
        service = service_by(
            nats, store, extractor, nats_stream=stream, nats_user="unzip", nats_password="p w"
        )
        with listening(service):
            until(lambda: is_heard(nats, stream))
            nats.reload(users("admin"))
            until(lambda: not is_heard(nats, stream))
            nats.reload(users("admin", "unzip"))
            until(lambda: is_heard(nats, stream))
            put(store, KEY, zips.standard({"a": b"1"}))
            nats.publish(event(store.bucket, KEY))
            until(lambda: manifest_of(store, RESULT) is not None)


def test_an_archive_may_take_longer_than_the_wait_for_its_acknowledgement(
    nats_server: NatsServer, store: S3, extractor: Extractor
) -> None:
    nats_server.add_stream()
    service = service_by(nats_server, store, extractor)
    # The server waits anew after each sign, so that two of them show it will never be over. A
    # short wait would be over on a machine that stands still for a moment.
    with held(service) as hold, listening(service, ack_seconds=9):
        until(lambda: is_heard(nats_server, STREAM))

        async def two_signs_of_life(client: Client) -> None:
            signs = await client.subscribe(f"$JS.ACK.{STREAM}.{GROUP}.>")
            await client.publish(SUBJECT, event(store.bucket, KEY))
            for _ in range(2):
                assert (await signs.next_msg(SECONDS)).data == b"+WPI"

        nats_server.ask(two_signs_of_life)
        hold.released.set()
        until(nats_server.is_done)
        assert nats_server.deliveries() == 1
    assert hold.keys == [KEY]


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_is_not_ended_at_the_stop_is_given_back_at_once(
    nats_server: NatsServer, store: S3, extractor: Extractor, at_once: int
) -> None:
    """Also when the pod that stops was asking for a second message: that went to it before."""
    nats_server.add_stream()
    put(store, KEY, zips.standard({"a": b"1"}))
    nats_server.publish(event(store.bucket, KEY))
    service = service_by(nats_server, store, extractor, archives_at_once=at_once)
    with held(service, closed=False) as hold, listening(service, again_seconds=3600):
        until(lambda: hold.keys == [KEY] and nats_server.consumer().num_waiting == at_once - 1)
        service.stop.requested.set()
        hold.released.set()
    with listening(service_by(nats_server, store, extractor)):
        until(nats_server.is_done)
    assert files_below(store, RESULT) == {"a": b"1"}


def test_what_is_under_way_at_the_stop_is_ended_and_acknowledged(
    nats_server: NatsServer, store: S3, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the thread that waits for the stop is slow to say so."""
    nats_server.add_stream()
    nats_server.publish(event(store.bucket, KEY), event(store.bucket, "lee/result.zip"))
    service = service_by(nats_server, store, extractor)
    heard = threading.Event()
    monkeypatch.setattr(service.stop.requested, "wait", heard.wait)
    with held(service) as hold, listening(service):
        until(lambda: hold.keys == [KEY])
        service.stop.requested.set()
        hold.released.set()
        until(lambda: nats_server.consumer().num_ack_pending == 0 or len(hold.keys) > 1)
        heard.set()
    assert hold.keys == [KEY]  # nothing new was begun
    info = nats_server.consumer()
    assert (info.num_ack_pending, info.num_pending) == (0, 1)


@both
def test_the_pods_of_a_group_share_the_messages(
    nats_server: NatsServer,
    store: S3,
    extractor: Extractor,
    stream: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if stream:
        nats_server.add_stream()
    keys = [f"user-{number}/result.zip" for number in range(12)]
    one, two = (service_by(nats_server, store, extractor, nats_stream=stream) for _ in range(2))
    out: list[str] = []

    def both_listen() -> bool:
        out.append(capfd.readouterr().out)
        return "".join(out).count("listening") == 2

    with held(one) as first, held(two) as second, listening(one), listening(two):
        until(both_listen)
        nats_server.publish(*(event(store.bucket, key) for key in keys))
        if stream:  # who is busy takes no second one
            until(lambda: len(first.keys) == len(second.keys) == 1)
        first.released.set()
        second.released.set()
        until(lambda: len(first.keys) + len(second.keys) >= len(keys))
    assert sorted([*first.keys, *second.keys]) == sorted(keys)
    assert first.keys
    assert second.keys


class Hold:
    """Keys that were begun, and the event that lets them end."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.released = threading.Event()


@contextmanager
def held(service: Service, *, closed: bool = True) -> Iterator[Hold]:
    """Have archives take until they are released, then be closed or not."""
    hold = Hold()

    def close_key(key: str) -> bool:
        hold.keys.append(key)
        assert hold.released.wait(SECONDS)
        return closed

    service.close_key = service.process_key = close_key  # type: ignore[assignment,method-assign]
    yield hold


def test_without_a_server_the_listing_goes_on_and_the_stop_is_heard(
    store: S3, extractor: Extractor
) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    service = service_on(store, extractor, nats_url=f"nats://127.0.0.1:{free_port()}")
    with listening(service):
        until(lambda: manifest_of(store, RESULT) is not None)


def test_a_stream_that_is_not_there_is_told_and_awaited(
    nats_server: NatsServer, store: S3, extractor: Extractor, capfd: pytest.CaptureFixture[str]
) -> None:
    out = []

    def told() -> bool:
        out.append(capfd.readouterr().out)
        return "UNZIP_NATS_STREAM: there is no stream 'notifications'" in "".join(out)

    with listening(service_by(nats_server, store, extractor)):
        until(told)
        nats_server.add_stream()
        until(lambda: is_heard(nats_server, STREAM))


def test_another_subject_is_taken_over_by_the_consumer_that_is_there(
    nats_server: NatsServer, store: S3, extractor: Extractor
) -> None:
    """A durable consumer outlives the settings it was made with."""

    nats_server.add_stream("old", SUBJECT)
    with listening(service_by(nats_server, store, extractor, nats_subject="old")):
        until(lambda: is_heard(nats_server, STREAM))
    put(store, KEY, zips.standard({"a": b"1"}))
    with listening(service_by(nats_server, store, extractor)):
        until(lambda: nats_server.consumer().config.filter_subject == SUBJECT)
        nats_server.publish(event(store.bucket, KEY))
        until(lambda: manifest_of(store, RESULT) is not None)


def test_tls_with_a_client_certificate(tmp_path: Path, store: S3, extractor: Extractor) -> None:
    authority = trustme.CA()
    (tmp_path / "nats").mkdir()
    ca, server, client = (tmp_path / f"{name}.pem" for name in ("ca", "server", "client"))
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(server))
    authority.issue_cert("unzip").private_key_and_cert_chain_pem.write_to_path(str(client))
    config = (
        f'tls {{ cert_file: "{server}", key_file: "{server}", ca_file: "{ca}", verify: true }}\n'
        'authorization { token: "s3cret" }'
    )
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(client)
    with serve_nats(
        tmp_path / "nats",
        config=config,
        options={"tls": context, "token": "s3cret"},
        scheme="tls",
    ) as nats:
        nats.add_stream()
        service = service_by(
            nats,
            store,
            extractor,
            nats_password="s3cret",
            nats_ca_file=str(ca),
            nats_certificate_file=str(client),
        )
        with listening(service):
            until(lambda: is_heard(nats, STREAM))


def test_a_credentials_file(
    tmp_path: Path, store: S3, extractor: Extractor, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server in operator mode, as Synadia's cloud is, lets in who signs with the user's key.

    A file that is not there yet is told of and awaited.
    """
    operator, account, user = (Key(kind) for kind in "OAU")
    sides = {"subs": -1, "conn": -1, "leaf": -1, "data": -1, "payload": -1, "imports": -1}
    tokens = {
        "operator": operator.token(operator, {"type": "operator"}),
        "account": operator.token(
            account,
            {
                "type": "account",
                "limits": sides | {"exports": -1, "wildcards": True},
            },
        ),
        "user": account.token(user, {"type": "user", "subs": -1, "data": -1, "payload": -1}),
    }
    config = (
        f"operator: {tokens['operator']}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {tokens['account']} }}"
    )
    file, copy = tmp_path / "unzip.creds", tmp_path / "copy.creds"
    copy.write_text(
        f"-----BEGIN NATS USER JWT-----\n{tokens['user']}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    own = credentials(settings_for("archives", nats_credentials_file=str(copy)))
    with serve_nats(tmp_path / "nats", config=config, options=own, jetstream=False) as nats:
        service = service_by(
            nats, store, extractor, nats_stream="", nats_credentials_file=str(file)
        )
        out: list[str] = []

        def told() -> bool:
            out.append(capfd.readouterr().out)
            return "UNZIP_NATS_CREDENTIALS_FILE" in "".join(out)

        with listening(service):
            until(told)
            copy.rename(file)
            until(nats.has_listeners)


class Key:
    """An nkey: Ed25519 in base 32, with a prefix of its kind and a checksum (CRC-16/XMODEM)."""

    _PREFIXES: ClassVar = {"O": 14 << 3, "A": 0, "U": 20 << 3}

    def __init__(self, kind: str) -> None:
        self._key = Ed25519PrivateKey.generate()
        prefix = self._PREFIXES[kind]
        seed = 18 << 3
        self.public = self._text(bytes([prefix]) + self._key.public_key().public_bytes_raw())
        head = bytes([seed | prefix >> 5, (prefix & 31) << 3])
        self.seed = self._text(head + self._key.private_bytes_raw())

    @staticmethod
    def _text(data: bytes) -> str:
        checksum = binascii.crc_hqx(data, 0).to_bytes(2, "little")
        return base64.b32encode(data + checksum).decode().rstrip("=")

    def token(self, subject: Key, nats: dict[str, Any]) -> str:
        """A JWT about ``subject`` that this key signs."""
        claims = {
            "jti": subject.public,
            "iat": int(time.time()),
            "iss": self.public,
            "name": "test",
            "sub": subject.public,
            "nats": nats | {"version": 2},
        }
        parts = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
        ]
        signature = self._key.sign(".".join(parts).encode())
        return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


@pytest.mark.parametrize(
    ("use", "settings", "named"),
    [
        (tls_context, {"nats_ca_file": "{}/none"}, "UNZIP_NATS_CA_FILE"),
        (tls_context, {"nats_ca_file": "{}/text"}, "UNZIP_NATS_CA_FILE"),
        (tls_context, {"nats_certificate_file": "{}/none"}, "UNZIP_NATS_CERTIFICATE_FILE"),
        (tls_context, {"nats_certificate_file": "{}/text"}, "UNZIP_NATS_KEY_FILE"),
        (credentials, {"nats_credentials_file": "{}/none"}, "UNZIP_NATS_CREDENTIALS_FILE"),
        (credentials, {"nats_credentials_file": "{}/text"}, "nsc generate creds"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, use: Callable[[Any], Any], settings: dict[str, str], named: str
) -> None:
    (tmp_path / "text").write_text("hello")
    values = {name: value.format(tmp_path) for name, value in settings.items()}
    with pytest.raises(Unfit, match=named):
        use(settings_for("archives", **values))


def test_without_settings_the_client_decides() -> None:
    settings = settings_for("archives")
    assert (tls_context(settings), credentials(settings)) == (None, {})
