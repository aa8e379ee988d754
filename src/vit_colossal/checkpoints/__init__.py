"""The whole training state, by name: collected from any layout, put into any layout."""
