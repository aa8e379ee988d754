"""The plain model, its optimizer, its loss and its directory; no ColossalAI."""
