"""What is known of each family of models before any framework is imported: one row each."""
