"""The pages of nightly runs: one for a night, and an index over all of them."""
