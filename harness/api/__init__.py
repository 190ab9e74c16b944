"""What other Python code and notebooks call; `import harness` offers it."""
