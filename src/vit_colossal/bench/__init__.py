"""``vit-colossal bench``: strategies and peers, timed in turns on the same work."""
