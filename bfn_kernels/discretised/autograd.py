"""Native operators with their backward passes."""
