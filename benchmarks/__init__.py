"""The benchmarks of the project: tasks, peers and reports. They are not part of the wheel."""
