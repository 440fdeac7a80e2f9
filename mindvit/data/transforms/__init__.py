"""What is done to an image on the host."""
