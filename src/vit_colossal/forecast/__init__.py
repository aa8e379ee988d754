"""What a run will need before it runs: memory by kind, and which layouts there are."""
