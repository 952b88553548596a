"""`python -m wavlm_lightning` is the `wavlm` command."""

import sys

from wavlm_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
