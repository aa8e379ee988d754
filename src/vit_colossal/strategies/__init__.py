"""The only place that knows one plugin from another."""
