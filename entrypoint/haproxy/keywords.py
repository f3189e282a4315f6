"""The keywords of a configuration that name files, from HAProxy's configuration manuals (2.6 to 3.5)."""
# fmt: off

SECOND_WORD = frozenset({
    "lua-load", "lua-load-per-thread", "issuers-chain-path", "ssl-dh-param-file", "h1-case-adjust-file",
    "httpclient.ssl.ca-file", "eab-key-id", "eab-mac-key", "deviceatlas-json-file", "51degrees-data-file",
    "wurfl-data-file",
})
"""Lines with a file as their second word."""
OPTIONS_FROM = {
    "bind": 2, "ssl-f-use": 1, "server": 3, "server-template": 4, "peer": 3, "default-server": 1, "default-bind": 1,
    "stats": 3,
}
"""Lines that can have TLS options, and the number of the word at which options can begin."""
OPTIONS = {
    "crt": ("crt",), "default-crt": ("crt",), "ca-file": ("ca",), "ca-verify-file": ("ca",), "ca-sign-file": ("ca",),
    "crl-file": ("ca",), "crt-list": ("",), "tls-ticket-keys": ("",), "ech": ("",),
}
"""TLS options with a file after them, and the bases that it may be relative to."""
OF_A_STORE = {"crt": "crt", "key": "key", "ocsp": "crt", "issuer": "crt", "sctl": "crt"}
"""Options with a file in the load line of a crt-store, and the base that it is relative to."""
OF_A_CERTIFICATE = {**OPTIONS, **{option: ("", base) for option, base in OF_A_STORE.items() if option != "crt"}}
"""Options with a file in ssl-f-use and in the brackets of a crt-list. Up to 3.5 those of a store have no base here."""
PAYLOADS = frozenset({"file", "errorfile"})
LOG_FORMATS = frozenset({"lf-file"})
NOT_IN_FILES = ("@", "virt@")
PREFIXES = ("opt@", "file@")
SIGNS = (
    b"file", b"crt", b"-f", b"map", b"lua-load", b"-base", b"-path", b"env", b"config", b"keys", b"jwt", b"eab-",
    b"localpeer", b" ech", b"\tech", b"\vech", b"\fech", b"\rech",
)
"""Each line that names a file, or changes the meaning of those that do, contains one of these."""
SETTERS = frozenset({
    "crt-store", "crt-base", "ca-base", "key-base", "default-path", "localpeer", "setenv", "presetenv", "unsetenv",
    "resetenv",
})
"""Lines that change the meaning of others."""
SECTIONS = frozenset({
    "acme", "backend", "cache", "crt-store", "defaults", "fcgi-app", "frontend", "global", "healthcheck", "http-errors",
    "listen", "log-forward", "log-profile", "mailers", "namespace_list", "peers", "program", "resolvers", "ring",
    "traces", "userlist",
})
BLOCKS = (b".if", b".endif")
