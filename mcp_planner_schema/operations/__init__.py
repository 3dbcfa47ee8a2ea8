"""What authors of revisions write with."""
