"""Settings every service shares, and the reference generated from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

LogLevel = Literal["debug", "info", "warning", "error"]


def needed_by(*commands: str, shared: bool = False) -> dict[str, Any]:
    """What the reference says of a field beside its schema, as ``json_schema_extra``.

    ``commands`` of the image do not start without it; ``shared`` means that all releases of the
    image in an environment must have the same. `release validate` holds values against both.
    """
    return {"needed_by": list(commands)} | ({"shared": True} if shared else {})


class ServiceSettings(BaseSettings):
    """What the environment sets for a pod.

    A service subclasses this with ``env_prefix="PROXY_"`` and the like. The three
    fields without a prefix say who the pod is; the chart fills them in for every pod.
    """

    model_config = SettingsConfigDict(
        env_nested_delimiter="__", extra="ignore", frozen=True, populate_by_name=True
    )

    host: Annotated[str, Field(description="Address to listen on.")] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on.")] = 8080
    log_level: Annotated[LogLevel, Field(description="Least severe level that is logged.")] = "info"
    stop_delay_seconds: Annotated[
        float,
        Field(ge=0, description="How long to keep serving after SIGTERM while routes change."),
    ] = 5.0
    drain_seconds: Annotated[
        float,
        Field(gt=0, description="How long requests under way may take to finish after that."),
    ] = 20.0
    keep_alive_seconds: Annotated[
        int,
        Field(
            ge=1,
            description="How long a connection is kept between requests. Longer than any client "
            "keeps it, the sidecar above all, or requests meet a closing connection.",
        ),
    ] = 75
    head_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="How long a connection may take to send a request's head, and a new one "
            "to send anything.",
        ),
    ] = 20.0
    body_seconds: Annotated[
        float, Field(gt=0, description="How long a request's body may take, whatever its deadline.")
    ] = 300.0
    answer_seconds: Annotated[
        float,
        Field(gt=0, description="A caller that takes less than 16 KiB of an answer in it is cut."),
    ] = 60.0
    max_connections: Annotated[
        int,
        Field(
            gt=0,
            description="Connections at a time. Past it those that wait for their caller longest "
            "are closed, and a new one is refused (503) where none waits.",
        ),
    ] = 4096

    pod_name: Annotated[
        str, Field(validation_alias="POD_NAME", description="Name of this pod (downward API).")
    ] = ""
    release_name: Annotated[
        str,
        Field(validation_alias="RELEASE_NAME", description="Name of the release, the variant."),
    ] = ""
    source_revision: Annotated[
        str,
        Field(validation_alias="SOURCE_REVISION", description="Commit the image was built from."),
    ] = ""


class DecodingSettings(ServiceSettings):
    """What it sets besides for a service that answers the predictions of strangers.

    The key of the verifier comes from a Secret of the environment, the same for all of them.
    """

    max_image_pixels: Annotated[
        int,
        Field(gt=0, description="Largest picture that is decoded, and that a model may ask for."),
    ] = 40_000_000
    decode_memory_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="Memory for all pictures, JSON and CSV that are decoded at a time; what "
            "takes more is refused. 0 takes a third of the container's memory limit.",
        ),
    ] = 0
    decode_wait_seconds: Annotated[
        float,
        Field(gt=0, description="How long a request may wait for that memory before it gets 429."),
    ] = 1.0
    body_memory_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="Memory for the bodies of all requests under way, as they came and "
            "unpacked; past it they get 429, and one that is larger 413. 0 takes a sixth of the "
            "container's memory limit.",
        ),
    ] = 0
    probe_key: Annotated[
        SecretStr,
        Field(
            validation_alias="SLIPWAY_PROBE_KEY",
            description="Key of `X-Slipway-Probe`, by which `release verify` marks its requests; "
            "empty believes nobody.",
        ),
    ] = SecretStr("")


def environment_variables(settings: type[BaseSettings]) -> list[dict[str, Any]]:
    """One row per setting: ``name``, ``type``, ``default``, ``description``, ``required``.

    Where they say something, also ``needed_by``, ``shared`` (`needed_by`), ``limits`` of a
    number, by JSON Schema's names, and ``schema``, the JSON Schema of a value that is JSON.
    Names are those of the environment variables, in the order the fields are declared.
    """
    schema = settings.model_json_schema(by_alias=False)
    prefix = settings.model_config.get("env_prefix", "")
    rows: list[dict[str, Any]] = []
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        described = schema["properties"].get(name, {})
        limits = {key: described[key] for key in _LIMITS if key in described}
        said = {key: described[key] for key in ("needed_by", "shared") if described.get(key)}
        rows.append(
            {
                "name": alias if isinstance(alias, str) else f"{prefix}{name}".upper(),
                "type": _type_name(described),
                "default": described.get("default"),
                "required": field.is_required(),
                "description": field.description or "",
                **said,
                **({"limits": limits} if limits else {}),
                **_schema_of(described, schema.get("$defs", {})),
            }
        )
    return rows


def _schema_of(described: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a setting that is JSON, with the definitions it refers to and without texts."""
    if not _type_name(described).startswith("JSON"):
        return {}
    used: dict[str, Any] = {}
    waiting = [_bare(described)]
    while waiting:
        for name in _references(waiting.pop()):
            if name not in used:
                used[name] = _bare(definitions[name])
                waiting.append(used[name])
    made = {key: one for key, one in _bare(described).items() if key not in ("needed_by", "shared")}
    return {"schema": made | ({"$defs": dict(sorted(used.items()))} if used else {})}


def _bare(node: Any) -> Any:
    """A schema without what only people read; names of properties are kept, whatever they are."""
    if isinstance(node, list):
        return [_bare(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _bare(one) for name, one in value.items()}
        if key == "properties"
        else value
        if key in ("default", "const", "enum")
        else _bare(value)
        for key, value in node.items()
        if key not in ("title", "description")
    }


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return {name for one in node for name in _references(one)}
    if not isinstance(node, dict):
        return set()
    own = {str(node["$ref"]).rsplit("/", 1)[-1]} if "$ref" in node else set()
    return own | {name for one in node.values() for name in _references(one)}


def from_variables(settings: type[BaseSettings], variables: Mapping[str, str]) -> BaseSettings:
    """The settings of a process that has these variables alone, whatever this one has.

    Raises ValueError (pydantic's ValidationError where it can name fields) when they are refused.
    """

    class Source(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return {name.lower(): text for name, text in variables.items()}

    class Given(settings):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], **_: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (Source(settings_cls),)

    made: BaseSettings = Given()
    return made


def reference(settings: type[BaseSettings], *, title: str, as_json: bool = False) -> str:
    """The settings reference of a service as Markdown, or as JSON for programs."""
    rows = environment_variables(settings)
    if as_json:
        return json.dumps({"title": title, "settings": rows}, indent=2, ensure_ascii=False) + "\n"
    lines = [
        f"# Settings of {title}",
        "",
        "Generated by `make reference`; do not edit.",
        "",
        "| variable | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for row in rows:
        default = "required" if row["required"] else f"`{json.dumps(row['default'])}`"
        meaning = row["description"].replace("|", "\\|")
        lines.append(f"| `{row['name']}` | {row['type']} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type_name(described: dict[str, Any]) -> str:
    if "enum" in described:
        return "one of " + ", ".join(f"`{value}`" for value in described["enum"])
    if "anyOf" in described:
        return " or ".join(_type_name(option) for option in described["anyOf"])
    if "$ref" in described:
        return "JSON " + str(described["$ref"]).rsplit("/", 1)[-1]
    name = str(described.get("type", "any"))
    return {"array": "JSON list", "object": "JSON object"}.get(name, name)
