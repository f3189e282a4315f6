# A Debian that boots: systemd as PID 1, safe_reload and haproxy beside it. What tests/container/test_systemd.py starts.
ARG BASE=haproxy-safe-reload:dev
FROM ${BASE}
RUN export DEBIAN_FRONTEND=noninteractive \
 && apt-get update -q \
 && apt-get install -y -q --no-install-recommends systemd \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* \
# Debian's own unit would run a haproxy besides those of the tests, as root, and leave its socket in /run/haproxy.
 && systemctl mask haproxy.service
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/lib/systemd/systemd"]
