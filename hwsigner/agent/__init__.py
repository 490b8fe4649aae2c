"""The agent: a resident process that holds identities and their sessions, and answers on a Unix socket.

docs/agent.md describes it: the protocol, who may ask, what is in its memory.
"""
