"""Makes everything that a release has: `make dist`."""
