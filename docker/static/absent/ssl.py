"""In place of `ssl`: the names that prometheus_client asks for. The exporter speaks no TLS, and never uses them."""


class SSLContext:
    """Never made."""


class SSLError(OSError):
    """Never raised."""


PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER = 16, 17
