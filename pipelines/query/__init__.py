"""The query side: request -> plan -> stores -> answer. Imports nothing heavy; use the modules directly."""
