"""A Lua script that tells a new haproxy the states of its servers before it serves.

The CLI comes too late after a crash: the clients that have waited are served in the same turn of the event loop.
Functions that are registered with `core.register_init` run before the loop (HAProxy's Lua reference).
"""

from __future__ import annotations

from entrypoint.haproxy.server_state import AGENT, CHECKS, HEALTH, HOLD, LUA, NO_SCRIPT, STATE, ServerState, may_hold
from entrypoint.lean.collections import Collection, Iterable

_CALLS = {
    (HEALTH, "up"): "check_force_up()",
    (HEALTH, "down"): "check_force_down()",
    (HEALTH, "stopping"): "check_force_nolb()",
    (STATE, "maint"): "set_maint()",
    (STATE, "drain"): "set_drain()",
    (STATE, "ready"): "set_ready()",
    (CHECKS, ""): "check_disable()",
    (AGENT, ""): "agent_disable()",
}
_SCRIPT = """\
core.register_init(function()
  local function tell(backend, server, action)
    pcall(function() action(core.backends[backend].servers[server]) end)
  end
{}end)
"""


def script(states: Iterable[ServerState]) -> str:
    """Return a script that does what `server_state.commands` does; empty if there is nothing to do."""
    lines = []
    for state in states:
        backend, _, server = state.name.partition("/")
        for change in state.changes:
            call = _CALLS.get(change) or f'set_weight("{change[1]}")'
            lines.append(f'  tell("{backend}", "{server}", function(s) s:{call} end)\n')
    return _SCRIPT.format("".join(lines)) if lines else ""


def may_run_scripts(mentions: Collection[str] | None) -> bool:
    """Tell whether a haproxy with this configuration surely starts with a script as without one.

    Args:
        mentions: those of `server_state.MENTIONS` that the configuration has; None if they are not known.

    """
    return mentions is not None and not any(word in mentions for word in NO_SCRIPT)


def fragment(path: str, mentions: Collection[str], *, holds: bool) -> str:
    """Return lines for the `global` section that load a script, or hold haproxy back if it was built without Lua.

    Args:
        path: of the script.
        mentions: those of `server_state.MENTIONS` that the configuration has.
        holds: it is held back in any case.

    """
    # HAProxy 3.1 and later warn of the first script without this, and of this after the first script. It changes what
    # a boolean sample is in scripts; ours has none.
    tunable = (
        "" if LUA in mentions else (".if version_atleast(3.1)\n  tune.lua.bool-sample-conversion normal\n.endif\n")
    )
    otherwise = f".else\n{HOLD}" if may_hold(mentions) and not holds else ""
    return f".if feature(LUA)\n{tunable}  lua-load {path}\n{otherwise}.endif\n"
