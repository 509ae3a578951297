"""Runs in, one self-contained HTML page out: tables, pictures, checks, and what it all shows."""

from linmap.report.page import gather, is_report, write_report

__all__ = ["gather", "is_report", "write_report"]
