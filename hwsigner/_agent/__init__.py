"""The agent: a process that keeps keys open and their sessions fresh, and gives out credentials on a Unix socket.

docs/how-to/agent.md describes its protocol, who may ask it, and what it keeps in memory.
"""
