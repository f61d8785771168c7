"""What the environment sets for the unzip service (``UNZIP_…``)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from kit.settings import ServiceSettings
from unzip.zip.limits import Limits

_MIB = 1 << 20
SLACK_FIELDS = (
    *("icon", "id", "bucket", "key", "etag", "size", "outcome", "reason", "detail"),
    *("member", "members", "bytes", "skipped", "run"),
)


class UnzipSettings(ServiceSettings):
    """Every setting of `unzip`; S3 itself is addressed by the AWS SDKs' own variables."""

    model_config = SettingsConfigDict(env_prefix="UNZIP_")

    bucket: Annotated[
        str, Field(min_length=1, description="Bucket the archives and their files are in.")
    ] = "archives"
    prefix: Annotated[str, Field(description="Only archives whose key begins so.")] = ""
    suffix: Annotated[
        str, Field(pattern=r"^.*[^/]\.[^/.]+$", description="Only archives whose key ends so.")
    ] = "/result.zip"
    state_prefix: Annotated[
        str,
        Field(
            pattern=r"^[^/].*/$",
            description="Where in the bucket the ledger, plans and outbox are kept.",
        ),
    ] = ".slipway/unzip/"

    run_seconds: Annotated[
        float, Field(gt=0, description="A run takes no new archive after this many seconds.")
    ] = 3000.0
    run_archives: Annotated[
        int, Field(gt=0, description="A run takes at most this many archives.")
    ] = 10_000
    archives_at_once: Annotated[
        int, Field(gt=0, le=16, description="Archives one process extracts side by side.")
    ] = 2
    lease_seconds: Annotated[
        float,
        Field(ge=2, description="How long a claimed archive stays claimed without a heartbeat."),
    ] = 60.0
    max_attempts: Annotated[
        int,
        Field(gt=0, description="An archive whose worker died this often is recorded as failed."),
    ] = 5

    checkpoint_members: Annotated[
        int,
        Field(gt=0, description="The ledger learns of progress after this many files."),
    ] = 1000

    max_members: Annotated[int, Field(gt=0, description="Members an archive may have.")] = 100_000
    max_total_bytes: Annotated[
        int, Field(gt=0, description="Bytes all members of an archive may have together.")
    ] = 64 << 30
    max_member_bytes: Annotated[int, Field(gt=0, description="Bytes one member may have.")] = (
        64 << 30
    )
    max_ratio: Annotated[
        float, Field(gt=0, description="How many times its own size an archive may become.")
    ] = 250.0
    ratio_free_bytes: Annotated[
        int, Field(ge=0, description="Up to this many bytes of output the ratio does not count.")
    ] = 16 * _MIB
    max_archive_seconds: Annotated[
        float,
        Field(gt=0, description="An archive that is not verified within this time is refused."),
    ] = 3600.0

    name_charsets: Annotated[
        str,
        Field(
            description="Charsets of names that do not say theirs, with commas between: the first "
            "that decodes all names of an archive counts. Empty: evidence decides."
        ),
    ] = ""
    signing_block: Annotated[
        bool,
        Field(description="Accept Android packages, whose signatures lie before the directory."),
    ] = False

    readers: Annotated[
        int, Field(gt=0, le=64, description="Threads that fetch and decompress.")
    ] = 3
    writers: Annotated[int, Field(gt=0, le=256, description="Uploads under way at most.")] = 24
    span_bytes: Annotated[
        int, Field(ge=256 << 10, description="Bytes of an archive fetched by one ranged GET.")
    ] = 4 * _MIB
    part_bytes: Annotated[
        int,
        Field(
            ge=5 * _MIB,
            description="Members larger than this go up as multipart, in parts of this size.",
        ),
    ] = 8 * _MIB
    buffer_bytes: Annotated[
        int, Field(ge=16 * _MIB, description="Bytes that may wait for their upload at most.")
    ] = 32 * _MIB
    keep_bytes: Annotated[
        int,
        Field(ge=0, description="Bytes of verified small files kept, so they are not read again."),
    ] = 48 * _MIB

    request_attempts: Annotated[
        int, Field(gt=0, description="How often a request to S3 is tried in all.")
    ] = 10
    request_patience_seconds: Annotated[
        float, Field(gt=0, description="For how long a request to S3 is repeated at most.")
    ] = 120.0

    backend_url: Annotated[
        str,
        Field(
            pattern=r"^(https?://\S+)?$",
            description="Where outcomes are POSTed as CloudEvents; empty: none are sent.",
        ),
    ] = ""
    backend_secret: Annotated[
        SecretStr, Field(description="Key of the X-Slipway-Signature (HMAC-SHA256); empty: none.")
    ] = SecretStr("")
    slack_webhook_url: Annotated[
        SecretStr, Field(description="Slack incoming webhook; empty: none are sent.")
    ] = SecretStr("")
    slack_template: Annotated[
        str, Field(description="Text of a Slack message; {fields} of the event can be named.")
    ] = "{icon} `{key}`: {outcome} ({members} members, {bytes} bytes){detail}"
    slack_seconds: Annotated[
        float, Field(ge=0, description="Least number of seconds between two Slack messages.")
    ] = 1.0
    notify_timeout_seconds: Annotated[
        float, Field(gt=0, description="How long one POST to the backend or Slack may take.")
    ] = 10.0
    notify_give_up_seconds: Annotated[
        float, Field(gt=0, description="After this long an undeliverable message is given up.")
    ] = 7 * 86_400.0

    sqs_queue_url: Annotated[
        str, Field(description="SQS queue with the bucket's notifications, for `unzip watch`.")
    ] = ""
    nats_url: Annotated[
        str,
        Field(
            pattern=r"^((nats|tls)://\S+)?$",
            description="NATS servers with the bucket's notifications, for `unzip watch`: "
            "nats:// or tls:// and host:port, several with commas between.",
        ),
    ] = ""
    nats_subject: Annotated[
        str, Field(pattern=r"^\S+$", description="Subject the notifications are published to.")
    ] = "archives"
    nats_stream: Annotated[
        str,
        Field(
            pattern=r"^[^\s.*>/\\]*$",
            description="JetStream stream that keeps the subject, so that no message is lost; "
            "empty: core NATS, and the listing finds what was lost.",
        ),
    ] = ""
    nats_queue_group: Annotated[
        str,
        Field(
            pattern=r"^[^\s.*>/\\]+$",
            description="Pods of one group share the messages; in a stream, its durable consumer.",
        ),
    ] = "unzip"
    nats_user: Annotated[str, Field(description="User at the NATS servers; empty: none.")] = ""
    nats_password: Annotated[
        SecretStr, Field(description="The user's password, or the token if there is no user.")
    ] = SecretStr("")
    nats_credentials_file: Annotated[
        str, Field(description="File with a NATS user's JWT and seed (.creds), instead of a user.")
    ] = ""
    nats_ca_file: Annotated[
        str, Field(description="Authorities (PEM) of the NATS servers; empty: the system's.")
    ] = ""
    nats_certificate_file: Annotated[
        str, Field(description="Client certificate (PEM) for the NATS servers; empty: none.")
    ] = ""
    nats_key_file: Annotated[
        str, Field(description="Key (PEM) of the client certificate; empty: in the same file.")
    ] = ""
    watch_list_seconds: Annotated[
        float, Field(gt=0, description="`unzip watch` also lists the bucket this often.")
    ] = 300.0
    pushgateway_url: Annotated[
        str, Field(description="Where `unzip run` pushes its metrics at the end; empty: nowhere.")
    ] = ""

    @field_validator("name_charsets")
    @classmethod
    def _are_charsets(cls, charsets: str) -> str:
        for charset in filter(None, charsets.split(",")):
            try:
                b"a".decode(charset)
            except (LookupError, UnicodeError):
                raise ValueError(f"{charset!r} is no charset: e.g. cp949 or utf-8,cp932") from None
        return charsets

    @field_validator("slack_template")
    @classmethod
    def _names_fields(cls, template: str) -> str:
        try:
            template.format_map(dict.fromkeys(SLACK_FIELDS, ""))
        except (KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"there is no field {error}: it may name {', '.join(SLACK_FIELDS)}"
            ) from None
        return template

    def limits(self, *, key_bytes: int) -> Limits:
        """The budget of one archive whose files' keys already have ``key_bytes`` of prefix."""
        return Limits(
            members=self.max_members,
            total_bytes=self.max_total_bytes,
            member_bytes=self.max_member_bytes,
            ratio=self.max_ratio,
            ratio_free_bytes=self.ratio_free_bytes,
            name_bytes=1024 - key_bytes,
        )
