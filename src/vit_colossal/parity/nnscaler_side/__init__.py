"""What runs in the Python that has nnScaler; nothing here imports this package or is imported."""
