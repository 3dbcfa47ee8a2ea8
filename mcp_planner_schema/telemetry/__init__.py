"""What is told of runs to those who watch: metrics, logs, progress, and the report of one run."""
