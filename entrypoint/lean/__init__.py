"""Cheaper replacements for parts of the standard library. Each module says what it saves."""
