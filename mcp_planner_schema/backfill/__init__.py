"""Backfills: rows of a table are changed by short batches, each its own transaction that also says how far it has come.

The way through: :mod:`.spec` what is asked, :mod:`.keys` how the table is cut into ranges, :mod:`.record` where it stands,
:mod:`.batch` one batch as SQL, :mod:`.rows` one that Python computes, :mod:`.pace` how large, :mod:`.waiters` and
:mod:`.feedback` who suffers meanwhile (:mod:`.question` asks, :mod:`.replay` tells how far replicas are), :mod:`.engine` all
of it.
"""
