"""Tests run offline: a test that would reach the hub fails at once instead of retrying. And Ctrl-C works in them."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

# A shell without job control starts background programs with SIGINT ignored, and what they start inherits it: Python
# would then raise no KeyboardInterrupt in the programs that tests stop by Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
