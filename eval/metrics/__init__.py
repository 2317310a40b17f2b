"""What answers are held against: one file a family of metrics."""
