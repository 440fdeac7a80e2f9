"""Images of attention, and pages about runs."""
