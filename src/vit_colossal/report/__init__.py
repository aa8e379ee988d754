"""``vit-colossal report``: run directories as one HTML page that needs nothing else."""

from __future__ import annotations
