"""In place of `gzip`, which prometheus_client imports and the exporter never calls."""
