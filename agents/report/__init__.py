"""One HTML file that shows what agents looked at, wrote and scored."""

from agents.report.html import write_report
from agents.report.summary import Estimate, PolicySummary, summarise

__all__ = ["Estimate", "PolicySummary", "summarise", "write_report"]
