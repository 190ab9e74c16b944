"""`python -m harness`."""

if __name__ == "__main__":
    from harness.cli.app import main

    main()
