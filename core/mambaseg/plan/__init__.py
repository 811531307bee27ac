"""Measuring a data set (`fingerprint`), deciding sizes from it (`rules`), and the result (`Plan`)."""

from mambaseg.plan.plan import Plan

__all__ = ["Plan"]
