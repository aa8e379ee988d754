"""The settings, in groups; a docstring under a field is its help text."""
