"""What haproxy says, and what it reads: pure."""
