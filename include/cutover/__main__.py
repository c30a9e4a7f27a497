"""``python -m include.cutover``. SIGTERM and a closed terminal end it in order, with everything that it started."""

import signal
import sys

from include.cutover.cli.main import main
from include.cutover.stack.processes import exit_on

exit_on(signal.SIGTERM, signal.SIGHUP)
sys.exit(main())
