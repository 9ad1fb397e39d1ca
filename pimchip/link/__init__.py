"""Bytes, frames and requests between host and board; firmware_protocol/SPEC.md says what they are. No sockets but in transports."""
