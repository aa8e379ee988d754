"""Exact evaluation, and what each image got."""
