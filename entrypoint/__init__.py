"""safe_reload: a PID 1 for HAProxy that binds the VIPs and never lets go of them.

The map of the house, from the door inwards:

- `__main__` blocks signals, then calls `cli`.
- `cli` turns arguments and environment into settings, and answers what needs no daemon.
- `supervisor` is the loop: wait, turn what happened into events, ask `core`, carry out the effects.
- `core` decides and touches nothing; `system` touches and decides nothing, one kernel facility a file.
- `exporter` is another process: probes and metrics, asked over the network, answered by PID 1 through its socket.
"""

__version__ = "0.1.0"
