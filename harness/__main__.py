"""`python -m harness`."""

import os
import sys

if __name__ == "__main__":
    # Python looks into the working directory first, where a folder called "strategies" is somebody else's.
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and os.path.abspath(sys.path[0] or os.curdir) == os.getcwd() != home:
        del sys.path[0]
    from harness.cli.app import main

    main()
