"""One module for each command with flags of its own: ``main(flags, prog)`` gives the exit code."""
