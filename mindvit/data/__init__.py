"""Pictures: where they come from (sources), in which order (order), what is done to them (transforms), and batches of
them (pipeline).
"""
