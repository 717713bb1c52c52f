"""What a teacher tells a student: losses, objectives, connectors, teachers."""
