"""Listeners: the VIPs' sockets, bound once, numbered low, handed on and never let go of.

Owns every listening socket. A VIP is bound at the start and listens only while a generation uses it, so that one
that no `bind` uses refuses its clients instead of keeping them waiting. systemd may keep the VIPs for our next life
(its file descriptor store): they come back by adopt() and are VIPs again by bind().
"""
