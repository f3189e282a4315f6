"""The benchmarks: safe_reload beside the other ways to reload haproxy; `make bench`."""
