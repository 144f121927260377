"""Short training runs for tests of numbers."""


def skip_curves(monkeypatch):
    """Draw no curves, which takes most of the time of a short run."""
    monkeypatch.setattr("checkpoint.plot.plot_panels", lambda *_, **__: None)
