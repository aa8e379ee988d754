"""All that is decided before a process group exists; no framework is imported."""
