"""A trained network behind a page in the browser and a JSON endpoint."""
