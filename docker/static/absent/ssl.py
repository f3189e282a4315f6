"""Names that prometheus_client and the standard library ask of `ssl`; the exporter speaks no TLS, and never calls them."""


class SSLContext:
    """Never made."""


class SSLError(OSError):
    """Never raised."""


PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER = 16, 17
