FROM python:3.13-slim-bookworm AS build

WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all:

# Dependencies first: this layer changes with the lock files only. pip installs from outside the
# service's environment, so the environment contains no pip.
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN python -m venv --without-pip /opt/tamatar-auth \
    && python -m pip --python /opt/tamatar-auth install \
        --require-hashes --requirement requirements/runtime.txt \
    && python -m venv --without-pip /opt/build \
    && python -m pip --python /opt/build install \
        --require-hashes --requirement requirements/build.txt

COPY pyproject.toml LICENSE README.md ./
COPY migrations/ migrations/
COPY generated/ generated/
COPY src/ src/
RUN /opt/build/bin/python -m hatchling build --target wheel \
    && python -m pip --python /opt/tamatar-auth install --no-deps --no-index dist/*.whl


FROM python:3.13-slim-bookworm

# A numeric user: orchestrators that refuse root check the number, not the name.
RUN groupadd --system --gid 10001 tamatar \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin tamatar
COPY --from=build /opt/tamatar-auth /opt/tamatar-auth

# By default the server listens on loopback, which only the containers of the same pod can reach. Set
# TAMATAR_LISTEN=0.0.0.0:50051 after configuring a certificate and callers. Probes without
# certificates use TAMATAR_HEALTH_LISTEN.
ENV PATH=/opt/tamatar-auth/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TAMATAR_ENVIRONMENT=production \
    TAMATAR_METRICS_LISTEN=0.0.0.0:9464

USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["tamatar-auth", "healthcheck"]
ENTRYPOINT ["tamatar-auth"]
CMD ["serve"]

# Last, because these change with each release and each commit.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tamatar Auth" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/tamatar/tamatar-auth" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
