# haproxy behind safe_reload. Without a registry, give your own base image: --build-arg BASE="$(docker/base-image trixie)"
ARG BASE=debian:trixie-slim

# A separate stage compiles the launcher, so that the image has no compiler. With musl it has 42 KB and takes 35 us from
# exec to its first line.
FROM ${BASE} AS launcher
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc musl-tools
COPY docker/launcher.c docker/inherited.h /
RUN musl-gcc -static -O2 -s -Wall -Wextra -Werror -o /safe_reload /launcher.c

FROM ${BASE}

LABEL org.opencontainers.image.title="haproxy-safe-reload" \
      org.opencontainers.image.description="HAProxy behind safe_reload, a PID 1 that reloads it without losing a connection" \
      org.opencontainers.image.licenses="GPL-3.0-or-later"

RUN export DEBIAN_FRONTEND=noninteractive \
 && apt-get update -q \
 && apt-get install -y -q --no-install-recommends haproxy python3 python3-prctl python3-prometheus-client \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/*

COPY --from=launcher /safe_reload /usr/local/bin/safe_reload
COPY docker/start.py /usr/local/lib/safe_reload
COPY entrypoint/ /usr/lib/python3/dist-packages/entrypoint/

# Compile bytecode now, because a read-only root or another uid could not write it later. Check it by hash, because tools
# that rewrite images also rewrite time stamps. Without docstrings PID 1 needs 140 KiB less; Python finds such bytecode
# only under the name of the other kind, because -OO would ask the same of its own modules.
RUN python3 -OO -m compileall -q --invalidation-mode checked-hash /usr/lib/python3/dist-packages/entrypoint \
 && find /usr/lib/python3/dist-packages/entrypoint -name '*.opt-2.pyc' \
    -exec sh -c 'for file; do mv "$file" "${file%.opt-2.pyc}.pyc"; done' sh {} + \
 && mkdir -p /usr/local/etc/haproxy

# A base image may set SIGUSR1, as haproxy's own images do. Here SIGUSR1 means reload, and `docker stop` must stop.
STOPSIGNAL SIGTERM

# Without operands it runs `haproxy -f /usr/local/etc/haproxy/haproxy.cfg`.
ENTRYPOINT ["safe_reload"]
