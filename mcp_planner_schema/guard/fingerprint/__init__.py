"""What the catalog is like, as lines and digests that are the same for the same schema: on every PostgreSQL from 14 on, after a
dump and its restore, whatever a session's settings are and whoever asks, and however the schema came to be."""

from mcp_planner_schema.guard.fingerprint.difference import Entry as Entry
from mcp_planner_schema.guard.fingerprint.difference import difference as difference
from mcp_planner_schema.guard.fingerprint.difference import entries as entries
from mcp_planner_schema.guard.fingerprint.difference import same as same
from mcp_planner_schema.guard.fingerprint.digest import VERSION as VERSION
from mcp_planner_schema.guard.fingerprint.digest import Fingerprint as Fingerprint
from mcp_planner_schema.guard.fingerprint.digest import of as of
from mcp_planner_schema.guard.fingerprint.line import Line as Line
from mcp_planner_schema.guard.fingerprint.line import Lines as Lines
from mcp_planner_schema.guard.fingerprint.line import Picture as Picture
from mcp_planner_schema.guard.fingerprint.line import structure as structure
from mcp_planner_schema.guard.fingerprint.line import together as together
from mcp_planner_schema.guard.fingerprint.live import again as again
from mcp_planner_schema.guard.fingerprint.live import at_once as at_once
from mcp_planner_schema.guard.fingerprint.live import prepare as prepare
from mcp_planner_schema.guard.fingerprint.live import read as read
from mcp_planner_schema.guard.fingerprint.other_tools import without as without
from mcp_planner_schema.guard.fingerprint.subject import without_partitions as without_partitions
