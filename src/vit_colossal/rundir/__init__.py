"""What a run writes into its directory, and what is read of it."""
