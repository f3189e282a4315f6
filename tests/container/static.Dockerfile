# The minimal image, with the tools that tests use in a container. All but env and timeout are static, so they bring no
# library that safe_reload or haproxy could find.
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
