"""What haproxy says on its CLI and on stderr, and which files its configuration names. Touches nothing."""
