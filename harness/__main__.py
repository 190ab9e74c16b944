"""`python -m harness`."""

if __name__ == "__main__":
    from harness.cli import main

    main()
