"""What a plan will need and how fast it will be, before it runs: closed forms of memory and step time."""
