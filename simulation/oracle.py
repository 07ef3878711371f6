"""What the usage log says, worked out a second time from design.md §3–§5, without a line of the product."""
