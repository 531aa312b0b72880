"""What recorded runs say: the record format, statistics, tables and reports."""

from leaderboards.records import RecordError, Run, RunWriter, content_hash, load, read_run

__all__ = ["RecordError", "Run", "RunWriter", "content_hash", "load", "read_run"]
