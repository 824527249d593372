"""`python -m sparring` is `sparring`, for where the command is not on the path."""

import sys

from sparring.cli.main import main

sys.exit(main())
