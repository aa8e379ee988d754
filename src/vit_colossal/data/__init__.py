"""Images in, batches out: sources, the decoded cache, transforms and loaders.

Nothing is imported here, so that ``data.sources`` can be used before torch is loaded.
"""
