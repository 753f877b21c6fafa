"""Agents: policies, rollouts, reports, and the command line."""

from agents.policy import Policy, PrivilegedPolicy

__all__ = ["Policy", "PrivilegedPolicy"]
