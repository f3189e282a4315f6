"""The processes that ask a running instance."""
