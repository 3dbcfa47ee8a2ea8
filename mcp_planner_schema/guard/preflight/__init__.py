"""Preflight: what is asked of the server before a run that has something to do. Reads only, all refusals at once.

:mod:`.gate` is called by the runner, :mod:`.check` asks and puts together, and each group of questions is a module:
:mod:`.server`, :mod:`.rights`, :mod:`.sessions`, :mod:`.leftovers`, :mod:`.violations`, :mod:`.keys`, :mod:`.disk`,
:mod:`.backup`, :mod:`.replicas`, :mod:`.ages`, :mod:`.versions`. How much an answer weighs in which environment stands in
:data:`..findings_preflight.LEVELS`. A run with nothing to do imports none of it.
"""
