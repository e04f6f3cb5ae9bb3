"""`python -m insightdesk_rt` is `insightdesk-rt`."""

import sys

from insightdesk_rt.app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
