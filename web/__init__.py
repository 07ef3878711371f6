"""What people and programs ask over HTTP: totals, windows with receipts, the live feed, the ledger, health, metrics, a dashboard.

Owns: routes, JSON shapes, gathering over workers, the dashboard page.
Never does: metering, closing, decisions. It reads what the tasks of this process hold (`web/view.py`) and asks its peers.
"""
