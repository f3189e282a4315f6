# The minimal image, with the tools that tests use in a container, all static but env and timeout: nothing that safe_reload or haproxy
# could find there instead of what they have.
ARG BASE
ARG MINIMAL
FROM ${BASE} AS tools
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends busybox-static bash-static
RUN mkdir /tools && cp /bin/busybox /usr/bin/env /usr/bin/timeout /tools/ && cp /bin/bash-static /tools/bash && ln -s bash /tools/sh \
 && for name in $(busybox --list); do [ -e "/tools/$name" ] || ln -s busybox "/tools/$name"; done

FROM ${MINIMAL}
COPY --from=tools /tools/ /usr/bin/
RUN mkdir /root
