"""The command ``python -m include.cutover``. On SIGTERM or a closed terminal it ends in order, with all that it started."""

import signal
import sys

from include.cutover.cli.main import main
from include.cutover.stack.processes import exit_on

exit_on(signal.SIGTERM, signal.SIGHUP)
sys.exit(main())
