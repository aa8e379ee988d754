"""How fast this machine is: measured once in the processes of a run, and kept."""
