"""What `tuner doctor` looks at. Each check gives findings, within its time."""
