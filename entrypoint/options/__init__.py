"""Reads the command line and the environment into immutable values. Touches nothing."""
