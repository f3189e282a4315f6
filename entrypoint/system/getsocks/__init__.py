"""Listening sockets on their way from one generation to the next: `_getsocks`, and the other end of haproxy's `-x`.

haproxy binds what an ordinary `bind` names. Asked for it on its CLI, it passes copies of these sockets, and a haproxy
with `-x` asks so for them before it binds. We are in between and keep the copies, so that a haproxy that dies takes no
listening socket, and nobody who waits in its queue, with it.

What haproxy does with them (measured with 2.6.12, 3.0.11 and 3.2.26): it takes those over that a `bind` of the new
configuration matches in address, kind, interface, namespace, `transparent` and `v6only`, and closes the others. TCP
with any number of addresses, ports and shards, unix sockets by path and by abstract name, UDP, and the user's own
`stats socket` are all taken over. A single IPv6 address is only taken over if its `bind` says `v6only`: the kernel
says so of every socket that is bound to one, and haproxy compares that with the words. A unix socket that is taken
over keeps its path as it is; one that is bound anew is bound as PATH.PID.tmp and renamed.

A candidate that fails after it took them only closes its copies, and so does SIGUSR1. `disable frontend` and SIGTTOU
disconnect a TCP socket for everybody who shares it; `set maxconn frontend NAME 0` only stops accepting. A socket that
is not taken over, or of which a new configuration has fewer (`shards`), loses who waits in its queue. With
net.ipv4.tcp_migrate_req=1 it loses only handshakes that end while it closes.

The protocol (HAProxy's `src/cli.c:_getsocks` and `src/sock.c:sock_get_old_sockets`, the same from 2.3 to 3.2): the
client sends `_getsocks`; the server a count, then batches of descriptors (SCM_RIGHTS of unix(7)); the client answers
each batch with four bytes. With each descriptor comes the length and name of its network namespace, the length and
name of its interface, and four bytes without a meaning. Numbers are the machine's `int`. What is not exported, an
inherited socket above all, is not counted; who has nothing to export hangs up without a word.

Nothing here blocks: haproxy waits for us, and we for nobody. The session that a candidate sends us is an open file
description that it shares, and so is its mode (fcntl(2)): each call says itself that it does not wait.
"""
