"""What ``scripts/production-migrate.sh`` cannot do as a shell: stages, record, backup, watch, and the words to go back.

``python -m mcp_planner_schema.deploy <verb> [NAME=value …]``; only the script calls it. Exit codes are the guard's.
"""
