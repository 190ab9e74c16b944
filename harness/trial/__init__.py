"""One execution of a plan: what the ranks do, and how the parent follows, classifies and records it."""
