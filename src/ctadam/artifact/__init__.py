"""Stages shared by all experiments: run, derive tables, judge, draw, ship, verify, report."""
