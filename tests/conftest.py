"""Tests run offline: a test that would reach the hub fails at once instead of retrying."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
