"""What is done with any experiment: run it, derive tables, judge, draw, ship, verify, report."""
