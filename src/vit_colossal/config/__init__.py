"""What a person may ask for; no framework is imported."""
