"""What the package needs to know about a Lightning Trainer."""
