"""Pictures of attention, and pages about runs."""
