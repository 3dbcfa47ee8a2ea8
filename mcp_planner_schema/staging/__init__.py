"""Rehearsals on a copy of production: made, masked, measured, migrated there and back, and recorded.

``scripts/staging-deploy.sh`` calls the stages one after the other (:mod:`.stages`); production asks for the record
(:mod:`.record`).
"""
