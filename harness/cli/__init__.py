"""The command line: what can be asked for, and what people see."""
