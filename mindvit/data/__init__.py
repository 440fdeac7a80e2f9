"""Images: data sets (sources, datasets), order (samplers), decoding, transforms, and batches of them (loader)."""
