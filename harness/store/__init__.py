"""The results folder: tables, their columns, and what launches say about plans."""
