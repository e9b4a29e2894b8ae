FROM python:3.13-slim-bookworm AS build

WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all:

# First what changes with the lock files only. The service's environment is filled from outside,
# so that no pip ends up in it.
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

LABEL org.opencontainers.image.title="Tamatar Auth" \
      org.opencontainers.image.licenses="Apache-2.0"

# The user has a number because orchestrators that refuse root look at numbers, not at names.
RUN groupadd --system --gid 10001 tamatar \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin tamatar
COPY --from=build /opt/tamatar-auth /opt/tamatar-auth

# Calls are answered on loopback, as everywhere: what shares the container's network (its pod) can
# make them. For others TAMATAR_LISTEN names 0.0.0.0:50051 once there are certificate and callers;
# probes without certificates ask TAMATAR_HEALTH_LISTEN.
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
