"""The machine: what it is, what state it is in, what it lets a process take."""
