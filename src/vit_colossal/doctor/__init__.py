"""``vit-colossal doctor``: whether training can start on this machine."""
