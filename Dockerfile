# syntax=docker/dockerfile:1
# One image per service: `make image APP=proxy`.
# PYTHON_IMAGE is the official slim image by digest, or on the one-machine cluster a base made
# by debootstrap. Two builds of the same commit are the same digest: the lock file decides what
# is installed, bytecode is checked by nothing (its usual time stamp would differ, and without
# bytecode every pod would compile its imports again), and every file gets the same time.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS builder
ARG APP
ARG UV_VERSION=0.13.8
# Where an inspecting proxy stands before the registries, its authority is in the bundle that
# `make image` mounts; as build arguments these leave nothing in the image.
ARG SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
ARG PIP_CERT=/etc/ssl/certs/ca-certificates.crt
ENV PYTHONDONTWRITEBYTECODE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=0 \
    UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/slipway \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /uv && /uv/bin/pip install --quiet "uv==${UV_VERSION}"
WORKDIR /source
# The dependencies first: a change of code leaves their layer as it is.
COPY pyproject.toml uv.lock ./
COPY apps/kit/pyproject.toml apps/kit/
COPY apps/${APP}/pyproject.toml apps/${APP}/
RUN --mount=type=cache,target=/root/.cache/uv \
    /uv/bin/uv venv --quiet --python "$(command -v python3)" /opt/slipway \
    && /uv/bin/uv sync --quiet --frozen --no-dev --no-install-workspace --package "slipway-${APP}" \
    && /opt/slipway/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/slipway/lib
COPY apps/kit apps/kit
COPY apps/${APP} apps/${APP}
# The services' own code goes into a folder of its own, so that its layer is a small one.
RUN --mount=type=cache,target=/root/.cache/uv \
    /uv/bin/uv pip install --quiet --python /opt/slipway/bin/python --no-deps \
        --target /opt/app ./apps/kit "./apps/${APP}" \
    && rm -f /opt/app/.lock \
    && find /opt/app -name direct_url.json -delete -o -name RECORD -delete -o -name uv_cache.json -delete \
    && /opt/slipway/bin/python -m compileall -qq --invalidation-mode unchecked-hash /opt/app \
    && ln -s "/opt/app/bin/${APP}" /entrypoint

FROM ${PYTHON_IMAGE}
ARG APP
ARG REVISION
LABEL org.opencontainers.image.title="slipway-${APP}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/slipway/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/app \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# ONNX Runtime's StringNormalizer asks for en_US.UTF-8 by name, and the slim image has only
# C.UTF-8, which knows the same letters: under the other name it is all that is needed.
COPY --from=builder /usr/lib/locale/C.utf8 /usr/lib/locale/en_US.utf8
COPY --from=builder /opt/slipway /opt/slipway
COPY --from=builder /opt/app /opt/app
COPY --from=builder /entrypoint /entrypoint
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/entrypoint"]
