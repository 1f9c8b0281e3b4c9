"""The report on logs alone, and the page of what a run's logs say."""
