"""`python -m wavlm_lightning` is the `wavlm` command; `python -P -m` is safe in a folder of somebody else, as `wavlm` is."""

import sys
from pathlib import Path

from wavlm_lightning.system.user_modules import leave_working_directory

if __name__ == "__main__":
    leave_working_directory(Path(__file__).absolute().parents[1])  # before libraries are imported

from wavlm_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
