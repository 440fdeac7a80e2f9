"""What a run trains: one folder a task, behind the interface in base.py."""
