"""What is in a collection, and is it right: status, show, audit, repair, dead letters. No model, no engine."""
