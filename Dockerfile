# The gateway as an image:
#
#   docker build --tag pixxel-gateway .
#   docker run --rm --publish 127.0.0.1:8080:8080 \
#     --env GATEWAY_UPSTREAM__API_KEY --env GATEWAY_AUTH__MODE=open pixxel-gateway
#
# It listens on every address of the container, so that it refuses to start until it is told who is let in: everybody,
# as above, or teams. Settings come from the environment, or from a gateway.toml in a directory that is mounted at
# /etc/pixxel-gateway/config.
#
# deploy/compose.yml adds Redis and Prometheus.

# Any image with Python 3.11 or later, with pip and venv, as `python` on the PATH.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/pixxel-gateway \
    && python -m pip wheel --no-deps --wheel-dir /tmp/wheel . \
    && python -m pip --python /opt/pixxel-gateway install --no-compile /tmp/wheel/*.whl
# Python base images contain no bytecode, and the user of this image cannot write any. Without this step the standard
# library would be compiled at every start and at every health check. Importing a module compiles the parts of the
# standard library that it uses; all modules are imported, so that none can be missed. "unchecked-hash" because Python
# otherwise compares the modification time of the source, which an image layer rounds.
RUN export PYTHONPYCACHEPREFIX=/opt/pixxel-gateway/pycache \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/pixxel-gateway/lib \
    && /opt/pixxel-gateway/bin/python -P -c 'import encodings.idna, importlib, pkgutil, gateway; \
[importlib.import_module(module.name) for module in pkgutil.walk_packages(gateway.__path__, "gateway.")]'

FROM ${BASE}
COPY --from=build /opt/pixxel-gateway /opt/pixxel-gateway
# Not PYTHONUNBUFFERED: the gateway flushes its log itself, many lines at a time under load.
ENV PATH=/opt/pixxel-gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/pixxel-gateway/pycache \
    GATEWAY_SERVER__HOST=0.0.0.0
# Where config/gateway.toml is looked for.
WORKDIR /etc/pixxel-gateway
# A number, because Kubernetes cannot tell whether a name is root.
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 CMD ["pixxel-gateway", "healthcheck"]
ENTRYPOINT ["pixxel-gateway"]
CMD ["serve"]

ARG BASE
ARG VERSION=dev
LABEL org.opencontainers.image.title="pixxel-gateway" \
      org.opencontainers.image.description="A shared caching gateway in front of Pixxel's asset listings" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}"
