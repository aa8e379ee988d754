"""From a name to two splits of labelled images, undecoded: hub, folders, tables, shards, digits."""
