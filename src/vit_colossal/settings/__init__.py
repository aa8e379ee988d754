"""The fields of a run's configuration, in groups; each is a flag and a YAML key."""
