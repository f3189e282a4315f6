# An image of this project with a client of HTTP/3. What tests/container/test_documented.py runs bench/quic_reproducer in.
ARG BASE=haproxy-safe-reload:dev
FROM ${BASE}
RUN export DEBIAN_FRONTEND=noninteractive \
 && apt-get update -q \
 && apt-get install -y -q --no-install-recommends python3-aioquic \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/*
