"""Scripts of others and their knobs: what a knobs file says, and a plan's command, environment and copies of files."""
