"""`python -m brutax.cli`."""

import sys

from brutax.cli.app import main

sys.exit(main())
