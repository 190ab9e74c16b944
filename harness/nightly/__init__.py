"""The nightly run: a pinned suite, judged against a frozen baseline."""
