"""A sweep from beginning to end: what is searched, what is launched when, what is written."""
