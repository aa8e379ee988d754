"""``vit-colossal parity``: every layout against a plain loop and transformers' Trainer."""
