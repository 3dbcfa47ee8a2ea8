"""``make bench``: every measurement, or those named: ``python -m bench nothing_to_do example_data``."""

import importlib
import sys

MEASUREMENTS = (
    "nothing_to_do",
    "history",
    "example_data",
    "triggers",
    "navigation",
    "downgrade",
    "hold",
    "backfill",
    "fingerprint",
    "preflight",
)

for name in sys.argv[1:] or MEASUREMENTS:
    if name not in MEASUREMENTS:
        sys.exit(f"there is no measurement {name!r}; known are {', '.join(MEASUREMENTS)}")
    importlib.import_module(f"bench.{name}").main()
